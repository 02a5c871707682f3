"""Triton kernels for InfoGAN: the information loss of all codes, and the sampling of latents.

Imports torch and triton only, triton not before a kernel is asked for: importing this package
works without a GPU, without a driver and without triton.
"""

from __future__ import annotations

from .layout import Layout, make_layout

__all__ = ["Layout", "make_layout"]
