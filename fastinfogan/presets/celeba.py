"""CelebA, 32×32 RGB (arXiv 1606.03657, §7.2, appendix C.3, table 3).

Ten ten-way codes. Table 3 is captioned "SVHN dataset": it stands under CelebA, differs from
table 2 in the width of G's input alone (228), and so the networks are SVHN's. Learning rates and
λ are those of appendix C. The paper gives no number of updates and no batch size: `celeba-paper`
takes 30,000 of 128, 19 epochs; β1 = 0.5 is openai/InfoGAN's for MNIST. `celeba` takes 5,000, a
first choice that is to fit into an hour on two cores.
"""

from fastinfogan.config import TrainConfig

PAPER = TrainConfig().with_options(
    preset="celeba-paper",
    data="celeba",
    image_size=32,
    channels=3,
    networks="svhn",
    noise=128,
    codes=",".join(["cat10"] * 10),  # 228 = 128 + 10·10
    info_weight=1.0,
    routing="openai",
    lr_d=2e-4,
    lr_g=1e-3,
    beta1=0.5,
    batch_size=128,
    steps=30_000,
)

CONFIG = PAPER.with_options(preset="celeba", steps=5000)
