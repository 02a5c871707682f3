"""The old path of `head_loss`, for one release."""

import warnings

from .head_loss import *  # noqa: F403
from .head_loss import head_loss_kernel as head_loss_kernel

warnings.warn(
    "fastinfogan_kernels.info_loss has moved to fastinfogan_kernels.head_loss; the old path goes "
    "in the next release",
    DeprecationWarning,
    stacklevel=2,
)
