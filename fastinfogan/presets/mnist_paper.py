"""MNIST by the paper's recipe (arXiv 1606.03657, §7.1, appendix C.1, table 1).

Where the paper is silent, openai/InfoGAN decides: 5,000 updates at batch 128, Adam's β1 = 0.5,
λ = 1 for every code, and σ = 1 fixed for the two uniform codes. The paper writes that Q's σ is
learned through an exponential; the published code fixes it for MNIST, and so do we. Two things are
ours, as in every preset: noise from N(0, 1), where that code's is U(-1, 1), and samples and
evaluation by an averaged generator (`--ema 0` for the last one), which training does not see.
"""

from fastinfogan.config import TrainConfig

CONFIG = TrainConfig().with_options(
    preset="mnist-paper",
    data="mnist",
    image_size=28,
    channels=1,
    networks="mnist",
    noise=62,
    codes="cat10,uniform,uniform",  # 74 = 62 + 10 + 1 + 1
    info_weight=1.0,
    routing="openai",
    lr_d=2e-4,
    lr_g=1e-3,
    beta1=0.5,
    batch_size=128,
    steps=5000,
)
