"""Any pictures of your own, 32×32 RGB: `train own --data folder:PATH`.

Defaults that are meant to be safe, not tuned to a set: SVHN's networks; the hinge loss, which keeps
D from running ahead of G; a ten-way code and two continuous ones. The ten-way code must give a
picture and a copy of it the same category (`invariance`), where the copy is mirrored, moved, scaled
and made brighter or darker: what most pictures show does not change by that. Where it does, as a
letter does when it is mirrored, change `--warp`.

D's learning rate is the `mnist` preset's and G's the paper's. With 4e-4 and 2e-4, or with the
paper's 2e-4 for D, the invariance term leads D's trunk and D does not part real from generated
images: letters were gray noise after 400 updates of 64, and letters with these rates (one run
each). No spectral normalisation: it bounds Q's slope too, and Q knew no code after 240 updates of
32 letters (0.00 nats of the ten-way code, 1.56 without; one run each, at the lower rates). The
number of updates is a first choice that is to fit into an hour on two cores.
"""

from fastinfogan.config import TrainConfig

CONFIG = TrainConfig().with_options(
    preset="own",
    data="folder:data/own",
    image_size=32,
    channels=3,
    networks="svhn",
    noise=128,
    codes="cat10,uniform,uniform",
    info_weight=1.0,
    objective="hinge",
    real_info=1.0,
    warp="flip=0.5,shift=0.1,scale=0.1,gamma=0.3",
    lr_d=5e-4,
    lr_g=1e-3,
    beta1=0.5,
    batch_size=128,
    steps=4000,
)
