"""One update of the pair: gradients as pure functions, then the optimizers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from ..config import TrainConfig
from ..errors import UserError
from ..latents import LatentBatch, LatentSpec
from ..networks import initialise, pair
from ..parallel import Ranks
from ..philox import Stream
from ..terms.contrastive import Critic, Pairs, contrastive_grads, draw_pairs, n_factors
from ..terms.copies import Copier, Copies, real_terms
from ..terms.penalty import Balance
from .capture import Captured, CaptureFailed, restored
from .ema import Ema
from .gradients import (
    DTerms,
    Gradients,
    GTerms,
    Networks,
    Objective,
    Scale,
    d_grads,
    g_grads,
    generate,
    shared_grads,
    unscaled,
)
from .player import Flat, working_copies, working_network
from .policy import Policy, choose
from .schedule import Schedule

__all__ = [
    "DTerms",
    "GTerms",
    "Networks",
    "Objective",
    "Step",
    "build",
    "d_grads",
    "fused_adam",
    "g_grads",
    "shared_grads",
]


def build(config: TrainConfig, spec: LatentSpec) -> Networks:
    """The preset's networks with weights drawn from the seed, on the CPU."""
    sizes = (spec.input_dim, spec.q_dim, config.data.image_size, config.data.channels)
    networks = Networks(
        *pair(config.adversarial.networks, *sizes, spectral_norm=config.adversarial.spectral_norm)
    )
    draw = torch.Generator().manual_seed(config.seed)
    for network in networks:
        initialise(network, draw)
    return networks


def build_critic(config: TrainConfig, spec: LatentSpec) -> Critic | None:
    """InfoGAN-CR's H, which is built as D is, or none where it is not asked for."""
    if not config.contrastive.weight:
        return None
    sizes = (spec.input_dim, n_factors(spec), config.data.image_size, 2 * config.data.channels)
    critic = Critic(
        pair(config.adversarial.networks, *sizes, spectral_norm=config.adversarial.spectral_norm)[1]
    )
    initialise(critic, torch.Generator().manual_seed(config.seed + 1))
    return critic


def fused_adam(flat: Flat, lr: float, config: TrainConfig) -> torch.optim.Adam:
    """Adam on a flat parameter; its state exists from the start, to be saved and broadcast."""
    value = flat.value
    optimizer = torch.optim.Adam(
        [value],
        lr=torch.tensor(lr, device=value.device) if value.device.type == "cuda" else lr,
        betas=(config.optimiser.beta1, config.optimiser.beta2),
        fused=True,
        capturable=value.device.type == "cuda",
    )
    optimizer.state[value] = {
        "step": torch.zeros((), dtype=torch.float32, device=value.device),
        "exp_avg": torch.zeros_like(value.data),
        "exp_avg_sq": torch.zeros_like(value.data),
    }
    return optimizer


class Functions(NamedTuple):
    """The gradients of this run's networks, eager or compiled."""

    d: Callable[..., tuple[Gradients, DTerms]]  # of real images, latents, `Copies`, G's images
    g: Callable[..., tuple[Gradients, GTerms]]  # of latents, G's images if begun, real
    shared: Callable[..., tuple[Gradients, DTerms, Gradients, GTerms]]  # as of D
    contrastive: Callable[[Pairs], tuple[Gradients, Tensor]]  # G's, then the critic's


COMPILER = "inductor"  # of torch.compile; tests take one that only traces
# Inductor's warnings, of which no user can make use.
_NOT_FOR_USERS = (r"TensorFloat32 tensor cores", r"\s*Online softmax is disabled")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which calls `autograd.grad`, as one graph without a break."""
    config = torch._dynamo.config
    if not hasattr(config, "trace_autograd_ops"):
        raise UserError("--compile on: this torch cannot trace autograd.grad; use --compile off")
    config.trace_autograd_ops = True
    return torch.compile(function, fullgraph=True, dynamic=False, backend=COMPILER)


def _packed(d: DTerms, g: GTerms) -> Tensor:
    """All terms in one vector."""
    return torch.cat([x.float().view(-1) for x in (*d, *g)])


def _unpacked(vector: Tensor) -> tuple[DTerms, GTerms]:
    names = (*DTerms._fields, *GTerms._fields)
    codes = (len(vector) - len(names)) // 2 + 1  # all but the two NLL are scalars
    parts = vector.split([codes if name == "nll" else 1 for name in names])
    terms = [x if name == "nll" else x[0] for name, x in zip(names, parts, strict=True)]
    n = len(DTerms._fields)
    return DTerms(*terms[:n]), GTerms(*terms[n:])


class Step:
    """The whole update: D's gradients, Adam, G's gradients, Adam, EMA.

    `networks` hold the weights as they are trained, saved and averaged; `working` are the same
    networks in the precision that is computed in.
    """

    def __init__(
        self, config: TrainConfig, spec: LatentSpec, ranks: Ranks, policy: Policy | None = None
    ) -> None:
        self.config, self.spec, self.ranks = config, spec, ranks
        self.policy = choose(config, ranks) if policy is None else policy
        self.networks, self.critic = build(config, spec), build_critic(config, spec)
        trained = [*self.networks] if self.critic is None else [*self.networks, self.critic]
        for network in trained:
            network.to(device=ranks.device)
            network.to(memory_format=self.policy.memory_format)  # type: ignore[call-overload]
        self.schedule = Schedule(config, spec, ranks.device)
        low, _ = self.networks.generator.image_range
        self._copies = Copier(config, ranks, low)
        self.balance: Balance | None = None
        if config.balance.decay:
            self.balance = Balance(spec, config.balance.decay, config.information.backend).to(
                ranks.device
            )
        self.objective = Objective(
            spec,
            self.schedule.weights,
            config.information.routing,
            config.information.backend,
            real=real_terms(config, spec),
            adversarial=config.adversarial.objective,
            smoothing=config.adversarial.label_smoothing,
            r1=config.penalty.r1,
            r2=config.penalty.r2,
            balance=self.balance,
        )
        self.scaler: torch.amp.GradScaler | None = ranks.accelerator.scaler
        self.ema = Ema(self.networks.generator, config.optimiser.ema)
        d_params, g_params = self.networks.split(config.information.routing)
        if self.critic is not None:
            g_params += self.critic.parameters()
        self.d_flat = Flat(d_params, self.policy.dtype)
        self.g_flat = Flat(g_params, self.policy.dtype)
        self.d_optimizer = fused_adam(self.d_flat, config.optimiser.lr_d, config)
        self.g_optimizer = fused_adam(self.g_flat, config.optimiser.lr_g, config)
        copies = working_copies((self.d_flat, self.g_flat))
        generator, discriminator = self.networks
        self.working = Networks(
            working_network(generator, copies), working_network(discriminator, copies)
        )
        self.d_params, self.g_params = self.working.split(config.information.routing)
        self.working_critic: Critic | None = None
        if self.critic is not None:
            self.working_critic = working_network(self.critic, copies)
        self._gradients = self._compiled() if self.policy.compile else self._eager()
        self._captured: dict[bool, Captured] = {}  # without adversarial copies and with them

    # How the gradients are computed

    def _eager(self) -> Functions:
        scale: Scale = unscaled if self.scaler is None else self.scaler.scale
        networks, objective = self.working, self.objective
        d_params, g_params = self.d_params, self.g_params
        critic, weight = self.working_critic, self.config.contrastive.weight
        switch = self.schedule.contrastive
        own = list(networks.generator.parameters())

        def contrastive(pairs: Pairs) -> tuple[Gradients, Tensor]:
            assert critic is not None
            params = [*own, *critic.parameters()]
            of = (networks.generator, critic, params, pairs, weight * switch)
            return contrastive_grads(*of, scale)

        return Functions(
            lambda real, latents, warped=None, probes=None, upright=None, fake=None: d_grads(
                *(networks, objective, d_params, real, latents, scale),
                warped=warped,
                probes=probes,
                upright=upright,
                fake=fake,
            ),
            lambda latents, fake, real=None: g_grads(
                networks, objective, g_params, latents, scale, fake=fake, real=real
            ),
            lambda real, latents, warped=None, probes=None, upright=None: shared_grads(
                *(networks, objective, d_params, g_params, real, latents, scale),
                warped=warped,
                probes=probes,
                upright=upright,
            ),
            contrastive,
        )

    def _compiled(self) -> Functions:
        """One graph each, of forward and backward pass; shapes are fixed, a new one is an error."""
        eager = self._eager()
        return Functions(*(compiled(function) for function in eager))

    def prepare(self, real: Tensor) -> list[str]:
        """Compile and capture for batches like `real`, which leaves no trace in the weights.

        Returns lines on what did not go as planned.
        """
        if not (self.policy.compile or self.policy.capture):
            return []
        if self.scaler is not None:
            self.scaler.scale(torch.zeros((), device=real.device))  # it makes its tensors now
        told = self._compile(real)
        if not self.policy.capture:
            return told
        step = torch.zeros((), dtype=torch.int64, device=real.device)
        try:
            for vat in self.schedule.vat_kinds:
                self._captured[vat] = Captured(
                    partial(self._packed_update, vat=vat),
                    self._state(),
                    (step, real),
                    agree=self.ranks.first_failure,
                )
        except CaptureFailed as error:
            self._captured.clear()
            self.policy = self.policy.without_capture(str(error))
            told.append(f"the update runs without a CUDA graph: {error}")
        return told

    def _compile(self, real: Tensor) -> list[str]:
        """A first update, for which the compiler runs; without it where it fails unasked."""
        try:
            with restored(self._state()), warnings.catch_warnings():
                for words in _NOT_FOR_USERS:
                    warnings.filterwarnings("ignore", words)
                for vat in self.schedule.vat_kinds:
                    self._update(0, real, vat)
        except TorchDynamoException as error:
            why = " ".join(str(error).strip().splitlines()[:2])  # the backend, what it said
            # Other ranks wait in an all-reduce for what this one has not computed.
            if self.config.execution.compile == "on" or self.ranks.world_size > 1:
                raise UserError(f"torch.compile failed, use --compile off: {why}") from error
            self.policy = self.policy.without_compile(why)
            self._gradients = self._eager()
            return [f"the update is not compiled: {why}"]
        return []

    def _state(self) -> list[Tensor]:
        """All that an update changes, parameters and moments in their buffers."""
        tensors: list[Tensor] = [self.ema.flat.value]
        for flat, optimizer in (
            (self.d_flat, self.d_optimizer),
            (self.g_flat, self.g_optimizer),
        ):
            tensors += [flat.value, *optimizer.state[flat.value].values()]
            tensors += [] if flat.working is None else [flat.working]
        for module in self.modules().values():
            tensors += module.buffers()
        if self.scaler is not None:
            tensors += [self.scaler._scale, self.scaler._growth_tracker]  # type: ignore[list-item]
        return [t.detach() for t in tensors if isinstance(t, Tensor)]

    def refresh(self) -> None:
        """After weights were written from outside (a checkpoint, a broadcast)."""
        self.d_flat.refresh()
        self.g_flat.refresh()

    # The update

    def __call__(self, step: int, real: Tensor) -> tuple[DTerms, GTerms]:
        """Update `step` (from 0) on real images [B, C, H, W]."""
        vat = self.schedule.vat_at(step)
        if vat not in self._captured:
            return self._update(step, real, vat)
        return _unpacked(self._captured[vat](step, real))

    def _packed_update(self, step: Tensor, real: Tensor, vat: bool) -> Tensor:
        """Everything between two looks of the host, as a function of tensors."""
        return _packed(*self._update(step, real, vat))

    def _update(self, step: int | Tensor, real: Tensor, vat: bool) -> tuple[DTerms, GTerms]:
        """vat: whether it has adversarial copies."""
        self.schedule.set(step, None if self.balance is None else self.balance.factors())
        self.schedule.set_rate(self.d_optimizer, self.config.optimiser.lr_d, step)
        self.schedule.set_rate(self.g_optimizer, self.config.optimiser.lr_g, step)
        update = self._shared if self.config.execution.step == "shared" else self._alternating
        terms = update(step, real, self._copies(step, real, vat))
        if self.scaler is not None:
            self.scaler.update()
        self.ema.update(step, self.g_flat.value.detach())
        return terms

    def _alternating(
        self, step: int | Tensor, real: Tensor, copies: Copies
    ) -> tuple[DTerms, GTerms]:
        """The paper's: G answers the D that has just moved, on latents of its own.

        Or on D's (`reused`), whose images it then makes once: G does not move in between.
        """
        reused = self.config.execution.step == "reused"
        latents, fake = self._latents(step, Stream.D_LATENTS, len(real)), None
        if reused:
            fake = self._generated(latents)
        grads, d_terms = self._gradients.d(real, latents, *copies, fake)
        self.d_flat.collect(grads)
        average = self.ranks.start_average(self.d_flat.grad)
        if not reused:
            # What G does before it meets D does not depend on D's update, nor that on this.
            latents = self._latents(step, Stream.G_LATENTS, len(real))
            fake = self._generated(latents)
        average.wait()
        self._move(self.d_flat, self.d_optimizer)
        seen = real if self.config.adversarial.objective == "relativistic" else None
        grads, g_terms = self._gradients.g(latents, fake, seen)
        grads, g_terms = self._contrasted(step, grads, g_terms, len(real))
        self.g_flat.collect(grads)
        self.ranks.start_average(self.g_flat.grad).wait()
        self._move(self.g_flat, self.g_optimizer)
        return d_terms, g_terms

    def _shared(self, step: int | Tensor, real: Tensor, copies: Copies) -> tuple[DTerms, GTerms]:
        """One pass for both players."""
        latents = self._latents(step, Stream.G_LATENTS, len(real))
        of_d, d_terms, of_g, g_terms = self._gradients.shared(real, latents, *copies)
        self.d_flat.collect(of_d)
        d_average = self.ranks.start_average(self.d_flat.grad)
        of_g, g_terms = self._contrasted(step, of_g, g_terms, len(real))
        self.g_flat.collect(of_g)
        g_average = self.ranks.start_average(self.g_flat.grad)
        d_average.wait()
        self._move(self.d_flat, self.d_optimizer)
        g_average.wait()
        self._move(self.g_flat, self.g_optimizer)
        return d_terms, g_terms

    def _contrasted(
        self, step: int | Tensor, grads: Gradients, terms: GTerms, batch: int
    ) -> tuple[Gradients, GTerms]:
        """G's gradients with those of the contrastive term, if there is one, and its critic's."""
        if self.critic is None:
            return grads, terms
        early = isinstance(step, int) and step < self.config.contrastive.start  # its weight is 0
        if early and not self.policy.compile:
            return (*grads, *(torch.zeros_like(p) for p in self.critic.parameters())), terms
        pairs = draw_pairs(
            self.spec,
            batch // 2,
            device=self.ranks.device,
            seed=self.config.seed,
            step=step,
            first_pair=self.ranks.rank * (batch // 2),
        )
        more, value = self._gradients.contrastive(pairs)
        own = len(list(self.working.generator.parameters()))
        of_g = torch._foreach_add(grads[:own], more[:own])
        told = terms._replace(contrastive=value * self.schedule.contrastive)
        return (*of_g, *grads[own:], *more[own:]), told

    def _generated(self, latents: LatentBatch) -> Tensor | None:
        """G's images with its graph; compiled functions have the pass in their own."""
        return None if self.policy.compile else generate(self.working, latents)

    def _latents(self, step: int | Tensor, stream: Stream, batch: int) -> LatentBatch:
        """This rank's rows of the global batch."""
        return self.spec.sample(
            batch,
            device=self.ranks.device,
            seed=self.config.seed,
            step=step,
            stream=stream,
            first_row=self.ranks.rank * batch,
        )

    def _move(self, flat: Flat, optimizer: torch.optim.Adam) -> None:
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
        flat.refresh()

    # What a run keeps

    def modules(self) -> dict[str, nn.Module]:
        """The networks by the names that checkpoints use."""
        kept: dict[str, nn.Module] = {
            "generator": self.networks.generator,
            "generator_ema": self.ema.module,
            "discriminator": self.networks.discriminator,
        }
        more = {"critic": self.critic, "balance": self.balance}
        return kept | {name: module for name, module in more.items() if module is not None}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Adam's moments and counts, live, by name."""
        out = {}
        for name, optimizer, flat in (
            ("d", self.d_optimizer, self.d_flat),
            ("g", self.g_optimizer, self.g_flat),
        ):
            state = optimizer.state[flat.value]
            out[f"adam_{name}.step"] = state["step"]
            for key in ("exp_avg", "exp_avg_sq"):
                for i, view in enumerate(flat.views(state[key])):
                    out[f"adam_{name}.{i:02d}.{key}"] = view
        return out

    def average_buffers(self) -> None:
        """BatchNorm's running buffers, which are each rank's own, averaged over the ranks."""
        self.ranks.average_([b for module in self.modules().values() for b in module.buffers()])
