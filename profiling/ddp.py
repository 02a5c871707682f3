"""Our flat all-reduce next to DDP: `python profiling/ddp.py [--rounds 20]`.

Two gloo ranks on this machine's CPU train the preset's networks in fp32 three ways, from the same
weights on the same batches: with one flat average a player; with DDP as it is; and with DDP tuned
(gradients are views of its buckets, buffers are not broadcast, the graph is static). Prints the
largest difference of the weights after some updates, what one rank hands to the collectives per
update, and the time of an update, the three in turns. Losses and optimizers are the same in all,
written plainly: this compares the ways to average, not the rest of the step.
"""

from __future__ import annotations

import inspect
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import tyro
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from fastinfogan import data, device, parallel
from fastinfogan.config import TrainConfig
from fastinfogan.latents import LatentBatch
from fastinfogan.losses import adversarial_losses, info_loss
from fastinfogan.networks import Discriminator, Generator, MnistGenerator
from fastinfogan.parallel import Pending, Ranks
from fastinfogan.philox import Stream
from fastinfogan.presets import PRESETS
from fastinfogan.training.step import build

RANKS = 2


@dataclass(frozen=True)
class DdpConfig:
    """Compare with DDP on two CPU ranks."""

    preset: str = "mnist-paper"
    """The preset."""
    data: str = "mnist"
    """Its images."""
    batch_size: int = 128
    """Per rank."""
    updates: int = 10
    """Updates after which weights are compared."""
    rounds: int = 20
    """Timed updates of each way, behind those."""


D_LOSS, G_LOSS = adversarial_losses("nonsaturating")


class Loss(nn.Module):
    """A player's loss, which DDP can wrap."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.spec = config.spec()
        weight = config.information.info_weight
        self.weights = torch.tensor([weight * c.weight for c in self.spec.codes])

    def information(self, q: Tensor, latents: LatentBatch) -> Tensor:
        """Return the weighted NLL of the codes."""
        targets = latents.categorical, latents.continuous
        return info_loss(q, self.spec, *targets, weights=self.weights, validate=False).total


class DLoss(Loss):
    """D's and Q's: on real images and on fakes, each by its own statistics."""

    def __init__(self, config: TrainConfig, discriminator: Discriminator) -> None:
        super().__init__(config)
        self.discriminator = discriminator

    def forward(self, real: Tensor, fake: Tensor, latents: LatentBatch) -> Tensor:
        d = self.discriminator
        on_real, on_fake = d.trunk(real, "update"), d.trunk(fake, "batch")
        information = self.information(d.q(on_fake, "batch"), latents)
        return D_LOSS(d.logit(on_real), d.logit(on_fake)) + information


class GLoss(Loss):
    """G's. D is no part of the module, so that DDP leaves it alone."""

    def __init__(
        self, config: TrainConfig, generator: Generator, discriminator: Discriminator
    ) -> None:
        super().__init__(config)
        self.generator = generator
        self.frozen = (discriminator,)

    def forward(self, latents: LatentBatch) -> Tensor:
        (d,) = self.frozen
        features = d.trunk(self.generator(latents.input, "update"), "batch")
        return G_LOSS(d.logit(features)) + self.information(d.q(features, "batch"), latents)


@dataclass
class Moved:
    """Bytes that one rank hands to the collectives."""

    gradients: int = 0  # bytes
    buffers: int = 0  # bytes
    collectives: int = 0


@dataclass
class Way:
    """One way to train: networks, optimizers and the averages between them."""

    config: TrainConfig
    ranks: Ranks
    moved: Moved = field(default_factory=Moved)

    def __post_init__(self) -> None:
        self.spec = self.config.spec()
        self.networks = build(self.config, self.spec)
        for network in self.networks:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.d_loss: nn.Module = DLoss(self.config, self.networks.discriminator)
        self.g_loss: nn.Module = GLoss(self.config, *self.networks)
        self.d_params, self.g_params = self.networks.split("openai")
        adam = self.config.optimiser
        betas = (adam.beta1, adam.beta2)
        self.d_adam = torch.optim.Adam(self.d_params, adam.lr_d, betas, fused=True)
        self.g_adam = torch.optim.Adam(self.g_params, adam.lr_g, betas, fused=True)

    def latents(self, step: int, stream: Stream) -> LatentBatch:
        """Return this rank's rows."""
        batch = self.config.batch_size
        return self.spec.sample(
            batch,
            seed=self.config.seed,
            step=step,
            stream=stream,
            first_row=self.ranks.rank * batch,
        )

    def fakes(self, latents: LatentBatch) -> Tensor:
        """Return images for D."""
        with torch.no_grad():
            fake: Tensor = self.networks.generator(latents.input, "batch")
        return fake

    def weights(self) -> Tensor:
        """Return all parameters, flat."""
        return torch.cat([p.detach().reshape(-1) for p in (*self.d_params, *self.g_params)])

    def __call__(self, step: int, real: Tensor) -> None:
        """Run one update of the pair."""
        raise NotImplementedError


class Flat(Way):
    """One flat average a player, its gradients views of one buffer, as the project has it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.d_flat, self.d_views = _flat(self.d_params)
        self.g_flat, self.g_views = _flat(self.g_params)

    def __call__(self, step: int, real: Tensor) -> None:
        latents = self.latents(step, Stream.D_LATENTS)
        loss = self.d_loss(real, self.fakes(latents), latents)
        pending = self._start(self.d_flat, self.d_views, torch.autograd.grad(loss, self.d_params))
        latents = self.latents(step, Stream.G_LATENTS)
        pending.wait()
        self.d_adam.step()
        grads = torch.autograd.grad(self.g_loss(latents), self.g_params)
        self._start(self.g_flat, self.g_views, grads).wait()
        self.g_adam.step()

    def _start(self, flat: Tensor, views: list[Tensor], grads: tuple[Tensor, ...]) -> Pending:
        torch._foreach_copy_(views, grads)
        self.moved.gradients += flat.nbytes
        self.moved.collectives += 1
        return self.ranks.start_average(flat)


def _flat(params: list[nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    """Return a buffer and its pieces: the parameters' gradients, in the parameters' layout."""
    sizes = [p.numel() for p in params]
    flat = torch.zeros(sum(sizes))
    views = []
    for param, part in zip(params, flat.split(sizes), strict=True):
        views.append(part.as_strided(param.shape, param.stride(), part.storage_offset()))
        param.grad = views[-1]
    return flat, views


@dataclass
class Ddp(Way):
    """DDP over each player's loss."""

    options: dict[str, Any] = field(default_factory=dict)
    counted: bool = False  # by a hook in Python, which takes time

    def __post_init__(self) -> None:
        super().__post_init__()
        self.d_ddp, self.g_ddp = self._wrap(self.d_loss), self._wrap(self.g_loss)

    def _wrap(self, loss: nn.Module) -> DistributedDataParallel:
        ddp = DistributedDataParallel(loss, **self.options)
        if self.counted:
            ddp.register_comm_hook(None, self._count)
        return ddp

    # no types: DDP compares the hook's with the classes themselves, where ours are strings
    def _count(self, state, bucket):
        self.moved.gradients += bucket.buffer().nbytes
        self.moved.collectives += 1
        assert dist.group.WORLD is not None
        return default_hooks.allreduce_hook(dist.group.WORLD, bucket)

    def _buffers(self, loss: DistributedDataParallel) -> None:
        if loss.will_sync_module_buffers():
            self.moved.buffers += sum(b.nbytes for b in loss.module.buffers())
            self.moved.collectives += 1

    def __call__(self, step: int, real: Tensor) -> None:
        latents = self.latents(step, Stream.D_LATENTS)
        fake = self.fakes(latents)
        self._buffers(self.d_ddp)
        self.d_adam.zero_grad()
        self.d_ddp(real, fake, latents).backward()
        self.d_adam.step()
        self._buffers(self.g_ddp)
        self.g_adam.zero_grad()
        with _frozen(self.networks.discriminator):
            self.g_ddp(self.latents(step, Stream.G_LATENTS)).backward()
        self.g_adam.step()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    module.requires_grad_(False)
    yield
    module.requires_grad_(True)


_NEW = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
TUNED: dict[str, Any] = {
    "forward_sync_buffers" if _NEW else "broadcast_buffers": False,
    "gradient_as_bucket_view": True,
    "static_graph": True,
}


def compare(config: DdpConfig, ranks: Ranks) -> list[str]:
    """Return the report's lines."""
    preset = PRESETS[config.preset].with_options(batch_size=config.batch_size)
    ways: dict[str, Way] = {
        "flat": Flat(preset, ranks),
        "DDP": Ddp(preset, ranks),
        "DDP, tuned": Ddp(preset, ranks, options=TUNED),
    }
    splits = data.load(
        config.data, image_size=preset.data.image_size, channels=preset.data.channels
    )
    images = torch.from_numpy(splits["train"].images[:])
    batches = data.BatchSampler(
        images, batch_size=config.batch_size, seed=0, rank=ranks.rank, world_size=RANKS
    )

    def real(step: int) -> Tensor:
        return data.to_range(batches(step), MnistGenerator.image_range)

    first = ways["flat"].weights()
    for step in range(config.updates):
        for way in ways.values():
            way(step, real(step))
    flat = ways["flat"].weights()
    lines = [
        f"weights after {config.updates} updates, of which the largest moved by "
        f"{_largest(flat, first):.1e}, differ from flat's by at most "
        + ", ".join(
            f"{_largest(flat, w.weights()):.1e} ({n})" for n, w in ways.items() if n[0] == "D"
        )
    ]
    moved = {
        "flat": Flat(preset, ranks),
        "DDP": Ddp(preset, ranks, counted=True),
        "DDP, tuned": Ddp(preset, ranks, options=TUNED, counted=True),
    }
    for way in moved.values():
        for step in (0, 1):  # DDP lays out its buckets anew after the first
            way.moved = Moved()
            way(step, real(step))
    times = _times(ways, real, config)
    base = statistics.median(times["flat"])
    lines.append(
        f"{'way':12}{'gradients, B':>14}{'buffers, B':>12}{'collectives':>12}{'ms, median':>12}"
        f"{'quartiles':>18}{'over flat':>10}"
    )
    for name, way in moved.items():
        low, median, high = statistics.quantiles(times[name], n=4)
        lines.append(
            f"{name:12}{way.moved.gradients:>14,}{way.moved.buffers:>12,}"
            f"{way.moved.collectives:>12}{median:>12.0f}{f'{low:.0f} to {high:.0f}':>18}"
            f"{median / base:>10.3f}"
        )
    for name, params in (("D", ways["flat"].d_params), ("G", ways["flat"].g_params)):
        flat = torch.ones(sum(p.numel() for p in params))
        alone = [_time(lambda f: ranks.start_average(f).wait(), flat) for _ in range(config.rounds)]
        lines.append(
            f"average of {name}'s {len(flat):,} parameters alone: {statistics.median(alone):.1f} ms"
        )
    return lines


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _times(
    ways: dict[str, Way], real: Callable[[int], Tensor], config: DdpConfig
) -> dict[str, list[float]]:
    """Return ms per update, the ways in turns, each first as often as the others."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for n in range(config.rounds):
        step = config.updates + n
        batch = real(step)
        for name in names[n % len(names) :] + names[: n % len(names)]:
            times[name].append(_time(ways[name], step, batch))
    return times


def _time(work: Callable[..., None], *arguments: Any) -> float:
    """Return ms from a barrier on."""
    dist.barrier()
    start = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - start) * 1e3


def _rank(rank: int, port: int, config: DdpConfig) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    ranks = parallel.start("no", cpu_only=True)
    torch.set_num_threads(device.cpu_threads())
    try:
        lines = compare(config, ranks)
        if ranks.is_main:
            about: dict[str, Any] = device.environment(ranks.device, "fp32", "", RANKS)
            print(
                f"{RANKS} gloo ranks on one machine, {about['threads']} thread each; "
                f"{about['device_name']}, {about['platform']}, torch {about['packages']['torch']}; "
                f"{config.preset}, batch {config.batch_size} a rank, fp32; n = {config.rounds}"
            )
            print("\n".join(lines))
    finally:
        ranks.close()


def main(config: DdpConfig) -> None:
    """Start the ranks and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_rank, args=(port, config), nprocs=RANKS)


if __name__ == "__main__":
    main(tyro.cli(DdpConfig))
