"""SVHN, 32×32 RGB (arXiv 1606.03657, §7.2, appendix C.2, table 2).

Four ten-way and four continuous codes, as appendix C.2 and table 2's R^168 have it; the body of
the paper says two continuous ones. Every one has λ = 1, "unless noted otherwise" (appendix C). σ
is learned, as the paper writes for all experiments and no published code contradicts for this
one. The paper gives no number of updates and no batch size: `svhn-paper` takes 30,000 of 128, 52
epochs; β1 = 0.5 is openai/InfoGAN's for MNIST.

With that recipe G draws noise after 300 updates on digits composed from MNIST (docs/results.md).
`svhn` is the recipe of `own`, which draws grounds and strokes there: the hinge loss, D at 5e-4,
and a category that survives a warp of the image (`invariance`). Moving, scaling and other
brightness do not change which digit it is; mirroring does, so it is left out. One ten-way code is
for the digit and two continuous ones, of the paper's body, for the rest, with σ fixed so that λ
keeps its weight. 5,000 updates of 64 are a first choice. Where SVHN is missing it trains on the
composed digits, and says so; `--data svhn` insists on SVHN.
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
    codes="cat10,uniform,uniform",
    objective="hinge",
    real_info=1.0,
    warp="shift=0.1,scale=0.1,gamma=0.3",
    lr_d=5e-4,
    batch_size=64,
    steps=5000,
)
