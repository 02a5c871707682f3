"""dSprites, 64×64 gray: the InfoGAN against which disentanglement is measured.

"InfoGAN modified" of InfoGAN-CR (Lin et al. 2020, appendix, and its published code), less its
contrastive regulariser: FactorVAE's networks (Kim & Mnih 2018, appendix), spectral instead of
batch normalisation in D and Q, five codes U(-1, 1) with σ fixed at 1, λ = 0.05, Adam with β1 = 0.5,
28 epochs of 737,280 images at batch 64. Two things differ: our noise is N(0, 1) where theirs is
U(-1, 1), and BatchNorm in G comes before the nonlinearity, as in the other experiments.
"""

from fastinfogan.config import TrainConfig

CONFIG = TrainConfig().with_options(
    preset="dsprites",
    data="dsprites",
    image_size=64,
    channels=1,
    networks="dsprites",
    noise=5,
    codes="uniform,uniform,uniform,uniform,uniform",  # 10 = 5 + 5
    info_weight=0.05,
    routing="openai",
    lr_d=2e-3,
    lr_g=1e-3,
    beta1=0.5,
    batch_size=64,
    steps=322_560,
)
