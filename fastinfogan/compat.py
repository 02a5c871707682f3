"""Drop-in replacements for the information losses of other codebases, computed by `info_loss`.

Imports torch, the standard library and this package's losses alone.

    theirs                                        here
    torchgan, TF-GAN: MutualInformationPenalty    the same class, with gradients
    PyTorch-StudioGAN, Natsu6767: CE + normal     `info_gan_loss`
    CE + λ·MSE (PyTorch-GAN, ClusterGAN)          `mse_weight` and `mse_constant`
    a mean over codes and over dims               `mean_weights`
    a variance in the place of its logarithm      a head {"mean": …, "var": …} of `info_loss`
    an NLL without its constant (vegans)          `nll_constant`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical

from .latents import Categorical, Gaussian, LatentSpec
from .latents.codes import LOG_2PI
from .losses import info_loss
from .losses.checks import mismatch


def mse_weight(weight: float, dim: int = 1) -> float:
    """Return the weight of a continuous code of `dim` dims whose loss is weight · F.mse_loss.

    With σ = 1 the code's NLL is ½ Σ_dims (c − μ)² and a constant, so the weight is 2λ/d. The total
    exceeds λ·MSE by `mse_constant(weight)`, which has no gradient.
    """
    return 2 * weight / dim


def mse_constant(weight: float) -> float:
    """Return λ·log 2π, the difference between a code's loss of weight 2λ/d and λ·MSE."""
    return weight * LOG_2PI


def nll_constant(dim: int = 1) -> float:
    """Return d·½ log 2π, by which a code's NLL exceeds one without its constant."""
    return 0.5 * dim * LOG_2PI


def mean_weights(spec: LatentSpec) -> list[float]:
    """Return weights with which the total is a mean over codes of means over each code's dims."""
    return [1 / (len(spec.codes) * code.dim) for code in spec.codes]


class MutualInformationPenalty(nn.Module):
    """torchgan's MutualInformationPenalty: the mean of a discrete and a continuous head's NLL.

    Called as there, `penalty(c_dis, c_cont, dist_dis, dist_cont)`: each head's NLL is a mean over
    rows and dims, and the two are reduced by "mean", "sum" or "none" ([2]). TF-GAN's
    `mutual_information_penalty` is the same with "mean". Unlike torchgan's, which copies the two
    numbers out of the graph, the result has gradients.

    Args:
        lambd: multiplies the result.
        reduction: "mean", "sum" or "none", over the two heads.
    """

    def __init__(
        self, lambd: float = 1.0, reduction: Literal["mean", "sum", "none"] = "mean"
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise mismatch("reduction", "mean, sum or none", reduction)
        self.lambd, self.reduction = lambd, reduction

    def forward(
        self, c_dis: Tensor, c_cont: Tensor, dist_dis: Distribution, dist_cont: Distribution
    ) -> Tensor:
        """Return the penalty.

        Args:
            c_dis: classes that `dist_dis.log_prob` takes: indices for a Categorical, one-hot rows
                for a OneHotCategorical.
            c_cont: values that `dist_cont.log_prob` takes, [B, d].
            dist_dis: a Categorical or OneHotCategorical of torch.distributions, Q of the class.
            dist_cont: a Normal, or an Independent one, Q of the values.

        Raises:
            ValueError: another distribution, or shapes that do not broadcast.
        """
        both = torch.stack([_discrete_nll(c_dis, dist_dis), _normal_nll(c_cont, dist_cont)])
        reduced = {"mean": both.mean(), "sum": both.sum(), "none": both}[self.reduction]
        return self.lambd * reduced


def _discrete_nll(value: Tensor, distribution: Distribution) -> Tensor:
    if isinstance(distribution, OneHotCategorical):
        value = value.argmax(-1)
    elif not isinstance(distribution, CategoricalDistribution):
        expected = "a Categorical or OneHotCategorical"
        raise mismatch("dist_dis", expected, type(distribution).__name__)
    logits = distribution.logits
    shape = torch.broadcast_shapes(value.shape, logits.shape[:-1])
    n = logits.shape[-1]
    rows = logits.expand(*shape, n).reshape(-1, n)
    classes = value.expand(shape).reshape(-1).long()
    return info_loss(rows, LatentSpec(0, (Categorical(n),)), classes).total


def _normal_nll(value: Tensor, distribution: Distribution) -> Tensor:
    independent_dims = 1
    while isinstance(distribution, Independent):  # whose log_prob is a sum over these dims
        for size in distribution.event_shape:
            independent_dims *= size
        distribution = distribution.base_dist
    if not isinstance(distribution, Normal):
        raise mismatch("dist_cont", "a Normal", type(distribution).__name__)
    value, mean, std = torch.broadcast_tensors(value, distribution.loc, distribution.scale)
    q = torch.stack((mean.reshape(-1), 2 * std.log().reshape(-1)), 1)
    spec = LatentSpec(0, (Gaussian(sigma="learned", weight=independent_dims),))
    return info_loss(q, spec, continuous=value.reshape(-1)).total


def info_gan_loss(
    d_categorical: Tensor | None = None,
    categorical: Tensor | None = None,
    d_mean: Tensor | None = None,
    d_var: Tensor | None = None,
    continuous: Tensor | None = None,
    *,
    categorical_weight: float = 1.0,
    continuous_weight: float = 1.0,
    epsilon: float = 1e-6,
) -> Tensor:
    """Return StudioGAN's loss: Σ_codes cross entropy, and the normal NLL of the continuous codes.

    The NLL is a sum over dims and a mean over the batch. Natsu6767's InfoGAN has the same.

    Args:
        d_categorical: D's logits [B, n_codes · n_classes], codes of equal width side by side.
        categorical: their classes [B, n_codes], or [B] for one code.
        d_mean, d_var: D's means and variances [B, d]; d_var > 0.
        continuous: the values [B, d].
        categorical_weight, continuous_weight: λ of each kind.
        epsilon: added to the variance; theirs stands in two places, with a difference of 3e-7.

    Raises:
        ValueError: a kind given in part, or shapes that do not fit.
    """
    heads: list[Tensor | dict[str, Tensor]] = []
    codes: list[Categorical | Gaussian] = []
    if d_categorical is not None:
        if categorical is None:
            raise mismatch("categorical", "the classes of d_categorical", None)
        n_codes = 1 if categorical.ndim == 1 else categorical.shape[1]
        columns = d_categorical.shape[1]
        if columns % n_codes or columns < 2 * n_codes:
            raise mismatch("d_categorical", f"[B, {n_codes} · n]", list(d_categorical.shape))
        n = columns // n_codes
        codes += [Categorical(n, weight=categorical_weight)] * n_codes
        heads += d_categorical.split(n, 1)
    if d_mean is not None:
        if d_var is None or continuous is None:
            raise mismatch("d_var and continuous", "tensors next to d_mean", None)
        dim = d_mean.shape[1]
        codes.append(Gaussian(dim=dim, sigma="learned", weight=continuous_weight))
        heads.append({"mean": d_mean, "var": d_var + epsilon})
    if not codes:
        raise mismatch("d_categorical and d_mean", "at least one of them", None)
    return info_loss(heads, LatentSpec(0, tuple(codes)), categorical, continuous).total


__all__: Sequence[str] = [
    "MutualInformationPenalty",
    "info_gan_loss",
    "mean_weights",
    "mse_constant",
    "mse_weight",
    "nll_constant",
]
