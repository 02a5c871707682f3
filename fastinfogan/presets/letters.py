"""Handwritten letters (EMNIST, Cohen et al. 2017); not one of the paper's experiments.

The 26 categories are to be the letters, capital and small together. MNIST's recipe, and further
(docs/notes/quality.md):

- `codes`, `invariance_codes`: a second code of 80 categories and an embedding, which G need not
  draw. To sort by them Q must tell apart what 26 categories may mix early.
- `gan_start`, `q_trunk`: Q sorts the letters before the game, and its trunk stays as it is then.
- `pseudo_labels`: the copy of a letter that Q is sure of has its category.
- `warp`: no strokes, which make other letters of some.
"""

from . import mnist

CONFIG = mnist.CONFIG.with_options(
    preset="letters",
    data="emnist-letters",
    codes="cat26,uniform,uniform,cat80*0,embedding=gaussian64*0",
    invariance_codes="all",
    instances_weight=0.3,
    q_trunk="fixed",
    gan_start=1000,
    lr_start=1e-3,
    lr_start_decay=500,
    vat_start=600,
    vat_stop=750,
    pseudo_labels_weight=1.0,
    pseudo_labels_start=750,
    info_start=1100,
    info_ramp=100,
    decay_start=1500,
    decay_steps=500,
    batch_size=256,
    steps=2000,
    warp="rotate=15,scale=0.2,shear=0.3,shift=0.06,thickness=0.5",
)
