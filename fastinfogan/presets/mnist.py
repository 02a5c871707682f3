"""MNIST, our best recipe: the paper's, and information on real images (docs/notes/quality.md).

The paper's information loss is at its ceiling long before the categories are the digits, for
nothing in it looks at real images. Four additions, none of which sees a label, and none of which
the paper has (`mnist-paper` is without):

- `invariance`: the mutual information of the categories that Q gives a real image and a warped copy
  (Ji et al. 2019, Hu et al. 2017). What a digit is does not change when it is turned, slanted or
  drawn with a thicker pen, or when a short line is drawn on it.
- `vat`, for 300 updates once the digits are apart: the categories must also bear the worst small
  change of an image, which draws their borders where there are no images (Hu et al. 2017).
- λ waits for 200 updates, then rises for 100: real images shape the categories before G does.
- `follow`: the two uniform codes move with a warp's slant and stroke width, and so come to mean it.

D learns faster than in the paper (5e-4 against 2e-4), and both rates fall from update 1,500 on.
"""

from . import mnist_paper

CONFIG = mnist_paper.CONFIG.with_options(
    preset="mnist",
    steps=4000,
    real_info=3.0,
    follow=3.0,
    warp="rotate=20,scale=0.15,shear=0.3,shift=0.06,thickness=0.5,stroke=0.5",
    vat=3.0,
    vat_start=700,
    vat_stop=1000,
    info_start=200,
    info_ramp=100,
    lr_d=5e-4,
    decay_start=1500,
    decay_steps=2500,
)
