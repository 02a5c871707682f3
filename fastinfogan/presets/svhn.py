"""SVHN, 32×32 RGB (arXiv 1606.03657, §7.2, appendix C.2, table 2).

Four ten-way and four continuous codes, as appendix C.2 and table 2's R^168 have it; the body of
the paper says two continuous ones. Every one has λ = 1, "unless noted otherwise" (appendix C). σ
is learned, as the paper writes for all experiments and no published code contradicts for this
one. The paper gives no number of updates and no batch size: `svhn-paper` takes 30,000 of 128, 52
epochs; β1 = 0.5 is openai/InfoGAN's for MNIST.

With that recipe G draws noise after 300 updates on digits composed from MNIST (docs/results.md).
`svhn` has the hinge loss and D at 5e-4, and one ten-way code for the digit and two continuous ones,
of the paper's body, for the rest, with σ fixed so that λ keeps its weight. The digit's category
must be found among grounds of any colour (docs/notes/quality.md). For this the copy that it must
survive (`invariance`) has other tones and surroundings (`photo`), which do not change which digit
it is; and a code of 64 dims that G need not show, `embedding`, tells images from one another
(`instances`), since the category alone never leaves its start. 1,000 updates of D and Q on real
images alone come first, which cost a fifth of an update of the game. Where SVHN is missing it
trains on the composed digits, and says so; `--data svhn` insists on SVHN.
"""

from fastinfogan.config import TrainConfig

PAPER = TrainConfig().with_options(
    preset="svhn-paper",
    data="svhn",
    image_size=32,
    channels=3,
    networks="svhn",
    noise=124,
    codes="cat10,cat10,cat10,cat10,"  # 168 = 124 + 4·10 + 4
    "uniform:learned,uniform:learned,uniform:learned,uniform:learned",
    info_weight=1.0,
    routing="openai",
    lr_d=2e-4,
    lr_g=1e-3,
    beta1=0.5,
    batch_size=128,
    steps=30_000,
)

CONFIG = PAPER.with_options(
    preset="svhn",
    data="svhn|street-digits-like",
    noise=60,
    codes="cat10,uniform,uniform,embedding=gaussian64*0",
    objective="hinge",
    real_info=3.0,
    invariance_logits="standard",
    warp="rotate=15,scale=0.2,shear=0.3,shift=0.06",
    photo_surround=1.0,
    photo_invert=0.5,
    photo_contrast=0.4,
    photo_brightness=0.25,
    photo_tint=0.1,
    instances_weight=1.0,
    gan_start=1000,
    lr_start=1e-3,
    lr_start_decay=500,
    lr_d=5e-4,
    batch_size=128,
    decay_start=1400,
    decay_steps=500,
    steps=1900,
)
