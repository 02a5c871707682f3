"""Rendered 3D faces, 32×32 gray: azimuth, elevation, lighting (arXiv 1606.03657, §7.2, app. C.4).

Table 4's networks, five continuous codes. Table 5 has a configuration for each variation that is
to be found; "wide or narrow" came out of the network for lighting. Q shares all but its output
units (C.4). Table 4 gives the last upconv no stride, which would leave 16×16 images: it is 2.
σ is learned, as appendix C writes. The paper's images, of the Basel face model (Paysan et al.
2009), are not public: these are the embedded renders of another face model, with known pose and
light. The paper gives no number of updates and no batch size: the presets that end in `-paper` take
30,000 of 128; β1 = 0.5 is openai/InfoGAN's for MNIST.

As the paper has it D parts real from generated images before G draws anything: after 1,000 updates
its images were noise, after 1,550 D's loss was 0.07 (docs/notes/faces.md). So `faces` and its
relatives have spectral instead of batch normalisation in D: with it G draws faces after 200 updates
of 64, without it, at three pairs of learning rates, none. σ is fixed and λ is 1, so that a code
keeps its weight as it is read better. G has the learning rate of the other experiments; both rates
fall over the second half. Two codes follow a warp of real images, as slant and width do on MNIST.
The first follows a shift to the side: these heads turn about the neck, so that they lie to one side
of the image when they look there. The second follows light from the right, as a slope of
brightness. Without these, the best code's ρ with azimuth stayed at .89 (docs/notes/faces.md). One
such run has codes for azimuth and light, so `faces-lighting` is the same recipe.

Elevation stays at .65 there. In `faces-elevation` a third code follows a nod: the face moves up or
down within its outline, and the head grows higher or lower with it. Shifts are to the side alone,
since these heads stand where they are and a nod moves them up and down. A head that lies to a side
looks there; its features are near its outline and a nod moves them less (`aside`). The three codes
are learned on real images alone first, for 300 updates: else a code that follows nothing takes a
part of them. Q learns them by a trunk of its own (`q_trunk`), which stays as it is from then on:
more training wore elevation down, and D judges better without them.
"""

from fastinfogan.config import TrainConfig

# The azimuth (pose).
PAPER = TrainConfig().with_options(
    preset="faces-paper",
    data="faces-3d",
    image_size=32,
    channels=1,
    networks="faces",
    noise=128,
    codes=",".join(["uniform:learned"] * 5),  # 133 = 128 + 5
    info_weight=0.2,
    routing="openai",
    lr_d=2e-4,
    lr_g=5e-4,
    beta1=0.5,
    batch_size=128,
    steps=30_000,
)
ELEVATION_PAPER = PAPER.with_options(
    preset="faces-elevation-paper", info_weight=0.1, lr_d=4e-4, lr_g=3e-4
)
LIGHTING_PAPER = PAPER.with_options(
    preset="faces-lighting-paper", info_weight=0.1, lr_d=8e-4, lr_g=3e-4
)

CONFIG = PAPER.with_options(
    preset="faces",
    codes=",".join(["uniform"] * 5),
    info_weight=1.0,
    spectral_norm=True,
    follow=3.0,
    followed="x,light_x",
    warp="shift=0.15,light=0.6",
    lr_g=1e-3,
    batch_size=64,
    decay_start=1500,
    decay_steps=1500,
    steps=3000,
)
ELEVATION = CONFIG.with_options(
    preset="faces-elevation",
    follow=10.0,
    followed="x,light_x,nod",
    warp="shift_x=0.13,light=0.6,nod=0.05,aside=0.42",
    routing="head",
    q_trunk="fixed",
    gan_start=300,
    lr_start=1e-3,
    lr_start_decay=150,
    decay_start=1250,
    decay_steps=1250,
    steps=2500,
)
LIGHTING = CONFIG.with_options(preset="faces-lighting")
