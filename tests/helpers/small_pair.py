"""A small pair of networks in fp64, and a textbook's update of it, written down once more."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastinfogan.config import Routing, StepMode, TrainConfig
from fastinfogan.latents import LatentBatch, LatentSpec
from fastinfogan.parallel import Pending, Ranks
from fastinfogan.training import step as step_module
from fastinfogan.training.step import (
    Networks,
    Objective,
    Step,
    build,
    d_grads,
    g_grads,
    shared_grads,
)

ROUTINGS: tuple[Routing, ...] = ("openai", "head", "generator-step")
MODES: tuple[StepMode, ...] = get_args(StepMode)
PRECISIONS = ("no", "bf16")
WEIGHTS = (0.5, 2.0, 1.5, 0.25)
CONFIG = TrainConfig().with_options(
    image_size=8, batch_size=8, noise=5, codes="cat3*0.5,uniform*2,bernoulli*1.5,gaussian2:learned"
)
SPEC = CONFIG.spec()
BATCH = 8


# A problem in fp64


def wide(latents: LatentBatch) -> LatentBatch:
    return LatentBatch(latents.input.double(), latents.categorical, latents.continuous.double())


def pair(seed: int = 0) -> Networks:
    """Return networks in fp64 whose weights are so large that no loss sits at its start value."""
    networks = build(CONFIG, SPEC)
    for network in networks:
        network.double()
    draw_weights(networks, seed)
    return networks


def draw_weights(networks: Networks, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    for network in networks:
        for name, p in network.named_parameters():
            mean = 1.0 if "bn" in name and name.endswith("weight") else 0.0
            nn.init.normal_(p, mean, 0.05, generator=draw)


def objective(routing: Routing, weights=WEIGHTS, spec: LatentSpec = SPEC) -> Objective:
    return Objective(spec, torch.tensor(weights, dtype=torch.float64), routing)


def images(seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(BATCH, 1, 8, 8, generator=draw, dtype=torch.float64)


def latent(seed: int = 0) -> LatentBatch:
    return wide(SPEC.sample(BATCH, seed=seed))


def of_d(networks: Networks, routing: Routing, *, weights=WEIGHTS, real=0, latents=0):
    """Return D's gradients by parameter name, and its terms."""
    params = networks.split(routing)[0]
    grads, terms = d_grads(
        networks,
        objective(routing, weights),
        params,
        images(real),
        latent(latents),
    )
    return named(networks, params, grads), terms


def of_g(networks: Networks, routing: Routing, *, weights=WEIGHTS, latents=0):
    params = networks.split(routing)[1]
    grads, terms = g_grads(networks, objective(routing, weights), params, latent(latents))
    return named(networks, params, grads), terms


def of_both(networks: Networks, routing: Routing, *scale):
    """Return the shared step's gradients and terms: D's, then G's."""
    params = networks.split(routing)
    d, d_terms, g, g_terms = shared_grads(
        networks, objective(routing), *params, images(), latent(), *scale
    )
    return (
        (named(networks, params[0], d), d_terms),
        (named(networks, params[1], g), g_terms),
    )


def named(networks: Networks, params, grads) -> dict[str, Tensor]:
    names = {
        id(p): f"{prefix}.{name}"
        for prefix, module in zip("gd", networks, strict=True)
        for name, p in module.named_parameters()
    }
    return {names[id(p)]: g for p, g in zip(params, grads, strict=True)}


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in module.named_buffers()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], b) for name, b in module.named_buffers())


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


# The textbook: the same networks and losses, written down once more, two passes, .backward()


def leaves(networks: Networks) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": p.detach().clone().requires_grad_()
        for prefix, module in zip("gd", networks, strict=True)
        for name, p in module.named_parameters()
    }


def batch_norm(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    dims = [0] if x.ndim == 2 else [0, 2, 3]
    shape = (1, -1) if x.ndim == 2 else (1, -1, 1, 1)
    centred = x - x.mean(dims, keepdim=True)
    x = centred / (centred.square().mean(dims, keepdim=True) + 1e-5).sqrt()
    return x * p[f"{name}.weight"].view(shape) + p[f"{name}.bias"].view(shape)


def textbook_generator(p: dict[str, Tensor], z: Tensor) -> Tensor:
    x = F.relu(batch_norm(p, "g.bn1", z @ p["g.fc1.weight"].T))
    x = F.relu(batch_norm(p, "g.bn2", x @ p["g.fc2.weight"].T))
    x = x.reshape(-1, 2, 2, 128).permute(0, 3, 1, 2)  # the flat side counts H, W, C
    x = F.conv_transpose2d(x, p["g.up3.weight"], stride=2, padding=1)
    x = F.relu(batch_norm(p, "g.bn3", x))
    x = F.conv_transpose2d(x, p["g.up4.weight"], p["g.up4.bias"], stride=2, padding=1)
    return 1 / (1 + (-x).exp())


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.1 * x)


def textbook_trunk(p: dict[str, Tensor], x: Tensor) -> Tensor:
    x = leaky(F.conv2d(x, p["d.conv1.weight"], p["d.conv1.bias"], stride=2, padding=1))
    x = F.conv2d(x, p["d.conv2.weight"], stride=2, padding=1)
    x = leaky(batch_norm(p, "d.bn2", x)).permute(0, 2, 3, 1).reshape(len(x), -1)
    return leaky(batch_norm(p, "d.bn3", x @ p["d.fc3.weight"].T))


def textbook_logit(p: dict[str, Tensor], features: Tensor) -> Tensor:
    return features @ p["d.head.weight"][0] + p["d.head.bias"]


def textbook_nll(p: dict[str, Tensor], features: Tensor, c: LatentBatch) -> Tensor:
    """Return the NLL of cat3, uniform (σ = 1), bernoulli, gaussian2 (learned σ), in nats."""
    x = leaky(batch_norm(p, "d.q_bn1", features @ p["d.q_fc1.weight"].T))
    q = x @ p["d.q_fc2.weight"].T + p["d.q_fc2.bias"]
    one = torch.ones(len(q), dtype=q.dtype)

    def gauss(mean: Tensor, value: Tensor, variance: Tensor) -> Tensor:
        return F.gaussian_nll_loss(mean, value, variance, full=True, eps=1e-12)

    return torch.stack(
        (
            F.cross_entropy(q[:, :3], c.categorical[:, 0]),
            gauss(q[:, 3], c.continuous[:, 0], one),
            F.binary_cross_entropy_with_logits(q[:, 4], c.categorical[:, 1].double()),
            2 * gauss(q[:, 5:7], c.continuous[:, 1:], q[:, 7:9].exp()),
        )
    )


def bce(logit: Tensor, real: bool) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, float(real)))


def textbook_d(networks: Networks, routing: Routing, real: Tensor, c: LatentBatch):
    p = leaves(networks)
    fake = textbook_generator(p, c.input).detach()
    bce(textbook_logit(p, textbook_trunk(p, real)), True).backward()
    features = textbook_trunk(p, fake)
    loss = bce(textbook_logit(p, features), False)
    if routing != "generator-step":
        shared = features if routing == "openai" else features.detach()
        loss = loss + textbook_nll(p, shared, c) @ torch.tensor(WEIGHTS, dtype=torch.float64)
    loss.backward()
    return {name: leaf.grad for name, leaf in p.items() if leaf.grad is not None}


def textbook_g(networks: Networks, c: LatentBatch):
    p = leaves(networks)
    features = textbook_trunk(p, textbook_generator(p, c.input))
    loss = bce(textbook_logit(p, features), True)
    loss = loss + textbook_nll(p, features, c) @ torch.tensor(WEIGHTS, dtype=torch.float64)
    loss.backward()
    return {name: leaf.grad for name, leaf in p.items() if leaf.grad is not None}


def assert_equal_to_rounding(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare in fp64, relative to each tensor's largest gradient.

    There are some thousand summands, and divisions by a batch's deviation lose three or four of
    the 16 digits.
    """
    assert set(actual) <= set(expected)
    for name, g in actual.items():
        truth = expected[name]
        scale = float(truth.abs().max())
        assert scale > 1e-8, f"{name}: a gradient that tests nothing"
        torch.testing.assert_close(g, truth, rtol=0, atol=1e-11 * scale, msg=name)


def assert_same_terms(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> None:
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=0)  # values of order 1 in fp64
        assert not x.requires_grad


def assert_same_buffers(a: Networks, b: Networks) -> None:
    for one, other in zip(a, b, strict=True):
        for (name, x), y in zip(one.named_buffers(), other.buffers(), strict=True):
            # means of values of order 1 in fp64, over a pass of another shape
            torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13, msg=name)


def batch(n: int, size: int = BATCH) -> Tensor:
    draw = torch.Generator().manual_seed(n)
    return torch.rand(size, 1, 8, 8, generator=draw).to(memory_format=torch.channels_last)


def everything(step: Step) -> dict[str, Tensor]:
    tensors = {
        f"{prefix}.{name}": tensor
        for prefix, module in step.modules().items()
        for name, tensor in module.state_dict().items()
    }
    return {k: v.clone() for k, v in (tensors | step.optimizer_tensors()).items()}


def with_routing(routing: Routing, **changes: Any) -> TrainConfig:
    return CONFIG.with_options(routing=routing, **changes)


def spy(monkeypatch, name: str, look: Callable[[Any, Any], object]) -> None:
    """Let `look` see the arguments and the result of a function of fastinfogan.training.step."""
    inner = getattr(step_module, name)

    def spied(*args, **kwargs):
        out = inner(*args, **kwargs)
        look(args, out)
        return out

    monkeypatch.setattr(step_module, name, spied)


def mock_ranks(rank: int = 0, scaler: Any = None, start_average: Any = None) -> Ranks:
    """Return a rank whose averages are what the test makes of them."""
    return cast(
        Ranks,
        SimpleNamespace(
            rank=rank,
            device=torch.device("cpu"),
            accelerator=SimpleNamespace(scaler=scaler, mixed_precision="no"),
            start_average=start_average or (lambda flat: Pending()),
        ),
    )


class Work(TorchDispatchMode):
    """A record of convolutions' gradients, of the shapes of products, and of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[str] = []
        self.products: list[list[int]] = []  # sorted: a weight's gradient may come transposed
        self.convolutions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution_backward.default:
            requested = zip(args[-1], ("input", "weight"), strict=False)
            expected = " ".join(what for expected, what in requested if expected)
            self.gradients += [expected] * bool(expected)
        elif func is torch.ops.aten.mm.default:
            self.products.append(sorted(out.shape))
        elif func is torch.ops.aten.convolution.default:
            self.convolutions += 1
        return out
