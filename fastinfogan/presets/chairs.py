"""Rendered chairs, 64×64 gray: rotation, width (arXiv 1606.03657, §7.2, appendix C.5).

Three twenty-way codes and a continuous one, as appendix C.5 and table 6's R^189 have it; the body
of the paper says four categorical ones. Table 7 has a configuration for each variation that is to
be found, with a λ for continuous and one for discrete codes. Q shares all but its output units
(C.5). Where table 6 gives no stride it is 1, but for the last upconv, which would leave 32×32
images: it is 2. σ is learned, as appendix C writes. The paper's images are those of Aubry et al.
2014; these chairs are drawn, in the same views. The paper gives no number of updates and no batch
size: the presets that end in `-paper` take 30,000 of 128; β1 = 0.5 is openai/InfoGAN's for MNIST.

Table 6's networks take some 17 times the arithmetic of MNIST's per image: 30,000 updates take 45
hours at the pace that docs/experiments.md has for two cores. `chairs` and `chairs-width` take
SVHN's networks, at 64×64 a third of that, and `chairs` 1,150 updates, which take 53 minutes. D has
spectral instead of batch normalisation and σ is fixed, as faces need it (docs/notes/faces.md);
without these chairs were not run. Nor was `chairs-width`.

`chairs` has further options, each for a reason that docs/notes/faces.md measures:

- `invariance`: a category survives scaling, moving, and the loss of the image's lower part, none of
  which changes the rotation. Without the last, categories are kinds of legs. Mirroring changes it.
- `invariance_logits` anchored: Q's logits deviated by .01, so that G bore nothing of the category.
- `gan_start`, `lr_start`: D's work is cheap until Q has the rotation.
- `info_start`: G draws shapes before λ counts; else Q learns to read categories off blots.
"""

from fastinfogan.config import TrainConfig

# The rotation.
PAPER = TrainConfig().with_options(
    preset="chairs-paper",
    data="chairs-like",
    image_size=64,
    channels=1,
    networks="chairs",
    noise=128,
    codes="cat20,cat20,cat20,uniform:learned*10",  # 189 = 128 + 3·20 + 1
    info_weight=1.0,
    routing="openai",
    lr_d=2e-4,
    lr_g=1e-3,
    beta1=0.5,
    batch_size=128,
    steps=30_000,
)
WIDTH_PAPER = PAPER.with_options(
    preset="chairs-width-paper", codes="cat20*2,cat20*2,cat20*2,uniform:learned*0.05"
)

SMALL = PAPER.with_options(networks="svhn", codes="cat20,cat20,cat20,uniform", spectral_norm=True)
CONFIG = SMALL.with_options(
    preset="chairs",
    invariance_weight=3.0,
    invariance_logits="anchored",
    warp="scale=0.25,zoom=0.2,shift=0.06,erase_below=0.8,white=1",
    gan_start=300,
    lr_start=4e-4,
    lr_start_decay=150,
    info_start=500,
    info_ramp=100,
    decay_start=750,
    decay_steps=400,
    steps=1150,
)
WIDTH = SMALL.with_options(
    preset="chairs-width", codes="cat20,cat20,cat20,uniform*10", batch_size=64, steps=3000
)
