"""dSprites, 64×64 gray: the InfoGAN against which disentanglement is measured.

`dsprites-paper` is "InfoGAN modified" of InfoGAN-CR (Lin et al. 2020, appendix, and its published
code), less its contrastive regulariser: FactorVAE's networks (Kim & Mnih 2018, appendix), spectral
instead of batch normalisation in D and Q, five codes U(-1, 1) with σ fixed at 1, λ = 0.05, Adam
with β1 = 0.5, 28 epochs of 737,280 images at batch 64. Two things differ: our noise is N(0, 1)
where theirs is U(-1, 1), and BatchNorm in G comes before the nonlinearity, as in the other
experiments.

`dsprites` is our best recipe for these images (docs/results.md). A category is what is left of a
shape when its centre, area and direction are made those of all others (`upright`); the five uniform
codes follow what a warp does to a sprite's place, size, stretch and slant. Where dSprites is
missing it trains on sprites that are drawn on the same grid, and says so.
"""

from fastinfogan.config import TrainConfig

PAPER = TrainConfig().with_options(
    preset="dsprites-paper",
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

CONFIG = PAPER.with_options(
    preset="dsprites",
    data="dsprites|dsprites-like",
    codes="uniform5,cat3",
    upright=10.0,
    follow=3.0,
    followed="x,y,size,stretch,slant",
    warp="shift=0.18,zoom=0.3,scale=0.25,shear=0.4",
    decay_start=3000,
    decay_steps=3000,
    steps=6000,
)
