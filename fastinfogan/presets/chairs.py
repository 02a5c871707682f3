"""Rendered chairs, 64×64 gray: rotation, width (arXiv 1606.03657, §7.2, appendix C.5).

Three twenty-way codes and a continuous one, as appendix C.5 and table 6's R^189 have it; the body
of the paper says four categorical ones. Table 7 has a configuration for each variation that is to
be found, with a λ for continuous and one for discrete codes. Q shares all but its output units
(C.5). Where table 6 gives no stride it is 1, but for the last upconv, which would leave 32×32
images: it is 2. σ is learned, as appendix C writes. The images are those of Aubry et al. 2014; put
them in a folder. The paper gives no number of updates and no batch size: 30,000 of 128 is our
choice; β1 = 0.5 is openai/InfoGAN's for MNIST.
"""

from fastinfogan.config import TrainConfig

# The rotation.
CONFIG = TrainConfig().with_options(
    preset="chairs",
    data="folder:data/chairs",
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

WIDTH = CONFIG.with_options(
    preset="chairs-width", codes="cat20*2,cat20*2,cat20*2,uniform:learned*0.05"
)
