"""SVHN, 32×32 RGB (arXiv 1606.03657, §7.2, appendix C.2, table 2).

Four ten-way and four continuous codes, as appendix C.2 and table 2's R^168 have it; the body of
the paper says two continuous ones. Every one has λ = 1, "unless noted otherwise" (appendix C). σ
is learned, as the paper writes for all experiments and no published code contradicts for this
one. The paper gives no number of updates and no batch size: `svhn-paper` takes 30,000 of 128, 52
epochs; β1 = 0.5 is openai/InfoGAN's for MNIST. `svhn` differs in two things. It takes 5,000
updates, a first choice that is to fit into an hour on two cores. Where SVHN is missing it trains
on digits composed from MNIST, and says so; `--data svhn` insists on SVHN.
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

CONFIG = PAPER.with_options(preset="svhn", data="svhn|street-digits-like", steps=5000)
