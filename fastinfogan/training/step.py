"""One update of the pair: three ways of taking it, and what they share.

`alternating`, `reused` and `shared` are the update; `Step` holds the networks, the players and the
loss terms, and runs one of the three eagerly, compiled or as a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from ..config import TrainConfig
from ..errors import UserError
from ..latents import LatentBatch, LatentSpec
from ..networks import initialise, pair
from ..parallel import Ranks
from ..philox import Stream
from ..terms.contrastive import Contrastive, Critic, PairLatents, n_factors
from ..terms.follow import Follow, followers
from ..terms.instances import Instances, embedding
from ..terms.invariance import Anchor, Centre, Finer, Invariance, categorical_columns
from ..terms.penalty import GradientPenalty
from ..terms.protocol import Address, Extra, Recipe, Term, TermSet, check_names
from ..terms.pseudo_labels import PseudoLabels
from ..terms.upright import Upright, UprightCopies
from ..terms.user import load_objective, load_terms
from ..terms.vat import VirtualAdversarial
from ..terms.warp import WarpedCopies, parse_changes
from .balance import Balance
from .capture import Captured, CaptureFailed, restore
from .compiler import compile_whole, without_warnings
from .ema import Ema
from .gradients import (
    AdversarialPair,
    DRecord,
    Gradients,
    GRecord,
    Networks,
    Objective,
    Scale,
    d_grads,
    g_grads,
    generate,
    leave_unscaled,
    real_grads,
    shared_grads,
)
from .player import Player, working_copies, working_network
from .policy import Policy, choose
from .restarts import Starts, features, fit, output_layer, put
from .schedule import Schedule

__all__ = [
    "DRecord",
    "GRecord",
    "Networks",
    "Objective",
    "Step",
    "build",
    "build_terms",
    "d_grads",
    "g_grads",
    "shared_grads",
]


class Active(NamedTuple):
    """The parts of an update, which decide which graph runs."""

    terms: tuple[str, ...]  # names
    game: bool = True  # False before --gan-start: nothing is generated, G stays


class Record(NamedTuple):
    """The values of one update, on the device. Before --gan-start those of the game are 0."""

    d: DRecord
    g: GRecord


class Work(NamedTuple):
    """The gradients of an update with one set of active terms, eager or compiled."""

    d_terms: TermSet
    g_terms: TermSet
    real_grads: Callable[..., tuple[Gradients, dict[str, Tensor]]]  # of real, extras
    d_grads: Callable[..., tuple[Gradients, DRecord]]  # of real, latents, extras, G's images
    g_grads: Callable[..., tuple[Gradients, GRecord]]  # of latents, extras, G's images, real
    shared_grads: Callable[..., tuple[Gradients, DRecord, Gradients, GRecord]]

    def extras(self, real: Tensor, at: Address) -> tuple[tuple[Extra, ...], tuple[Extra, ...]]:
        """Return what the recipes of D's and of G's terms make of a batch, each made once."""
        recipes: dict[Recipe, Extra] = {}
        for recipe in (*self.d_terms.recipes, *self.g_terms.recipes):
            if recipe not in recipes:
                recipes[recipe] = recipe(real, at)
        d, g = (
            tuple(recipes[recipe] for recipe in terms.recipes)
            for terms in (self.d_terms, self.g_terms)
        )
        return d, g


def alternating(step: Step, work: Work, at: Address, real: Tensor) -> Record:
    """Take the paper's update: G answers the D that has just moved, on latents of its own."""
    d_extras, g_extras = work.extras(real, at)
    latents = step.latents(at, Stream.D_LATENTS, len(real))
    grads, d_record = work.d_grads(real, latents, d_extras)
    average = step.d.start_average(grads)
    # G's own pass depends neither on D's update nor that on it: it runs during the all-reduce.
    latents = step.latents(at, Stream.G_LATENTS, len(real))
    fake = step.begin(latents)
    average.wait()
    step.d.move()
    grads, g_record = work.g_grads(latents, g_extras, fake, real)
    step.g.start_average(grads).wait()
    step.g.move()
    return Record(d_record, g_record)


def reused(step: Step, work: Work, at: Address, real: Tensor) -> Record:
    """Take an update as `alternating`, but both players see the same images, which G makes once."""
    d_extras, g_extras = work.extras(real, at)
    latents = step.latents(at, Stream.D_LATENTS, len(real))
    fake = step.begin(latents)
    grads, d_record = work.d_grads(real, latents, d_extras, fake)
    step.d.start_average(grads).wait()
    step.d.move()
    grads, g_record = work.g_grads(latents, g_extras, fake, real)
    step.g.start_average(grads).wait()
    step.g.move()
    return Record(d_record, g_record)


def shared(step: Step, work: Work, at: Address, real: Tensor) -> Record:
    """Take an update in which one pass serves both players, which move at once."""
    d_extras, g_extras = work.extras(real, at)
    latents = step.latents(at, Stream.G_LATENTS, len(real))
    of_d, d_record, of_g, g_record = work.shared_grads(real, latents, d_extras, g_extras)
    d_average = step.d.start_average(of_d)
    g_average = step.g.start_average(of_g)
    d_average.wait()
    step.d.move()
    g_average.wait()
    step.g.move()
    return Record(d_record, g_record)


def real_alone(step: Step, work: Work, at: Address, real: Tensor) -> Record:
    """Take an update before the game: D's trunk and Q learn from real images, G stays."""
    extras, _ = work.extras(real, at)
    grads, terms = work.real_grads(real, extras)
    step.d.start_average(grads).wait()
    step.d.move()
    nll = torch.zeros_like(step.objective.weights)
    none = nll.new_zeros(())
    return Record(DRecord(none, none, none, nll, terms), GRecord(none, nll, {}))


UPDATES = {"alternating": alternating, "reused": reused, "shared": shared}


def build(config: TrainConfig, spec: LatentSpec) -> Networks:
    """Return the preset's networks with weights drawn from the seed, on the CPU."""
    sizes = (spec.input_dim, spec.q_dim, config.data.image_size, config.data.channels)
    options = config.adversarial
    networks = Networks(
        *pair(
            options.networks, *sizes, spectral_norm=options.spectral_norm, q_trunk=options.q_trunk
        )
    )
    draw = torch.Generator().manual_seed(config.seed)
    for network in networks:
        initialise(network, draw)
    return networks


def build_critic(config: TrainConfig, spec: LatentSpec) -> Critic:
    """Return InfoGAN-CR's H, which is built as D is, with weights drawn from the seed."""
    sizes = (spec.input_dim, n_factors(spec), config.data.image_size, 2 * config.data.channels)
    critic = Critic(
        pair(config.adversarial.networks, *sizes, spectral_norm=config.adversarial.spectral_norm)[1]
    )
    initialise(critic, torch.Generator().manual_seed(config.seed + 1))
    return critic


def build_terms(config: TrainConfig, spec: LatentSpec, background: float) -> tuple[Term, ...]:
    """Return the loss terms that the options name, in the order in which they are added.

    background: the value of a dark pixel; a bright pixel is 1.
    """
    terms: list[Term] = []
    categories, *others = categorical_columns(spec) or (slice(0),)
    warped = WarpedCopies(config.invariance.warp, background, config.photo)
    standardise = config.invariance.standardise(config.adversarial.spectral_norm)
    if config.invariance.weight:
        more = tuple(others) if config.invariance.codes == "all" else ()
        at = config.invariance.restart_step or 0
        kept = (warped, standardise)
        terms.append(Invariance(config.invariance.weight, categories, *kept, more, at))
        if at and more:
            terms.append(Finer(config.invariance.weight, more[0], *kept, more[1:], at))
        if config.invariance.anchor:
            terms.append(Anchor(categories))
        if config.invariance.centre:
            terms.append(Centre(categories))
    pseudo = config.pseudo_labels
    if pseudo.weight:
        terms.append(
            PseudoLabels(
                pseudo.weight, categories, warped, standardise, pseudo.threshold, pseudo.start
            )
        )
    if config.follow.weight:
        columns, changes = followers(spec, parse_changes(config.follow.changes))
        terms.append(Follow(config.follow.weight, columns, changes, warped))
    columns_of_images = embedding(spec)
    if config.instances.weight and columns_of_images is not None:
        temperature = config.instances.temperature
        terms.append(Instances(config.instances.weight, temperature, columns_of_images, warped))
    if config.upright.weight:
        terms.append(Upright(config.upright.weight, categories, UprightCopies(background)))
    if config.vat.weight:
        vat = (config.vat.radius, config.vat.start, config.vat.stop)
        terms.append(VirtualAdversarial(config.vat.weight, categories, *vat))
    if config.penalty.r1 or config.penalty.r2:
        terms.append(GradientPenalty(config.penalty.r1, config.penalty.r2))
    if config.contrastive.weight:
        critic, pairs = build_critic(config, spec), PairLatents(spec)
        terms.append(
            Contrastive(config.contrastive.weight, critic, pairs, config.contrastive.start)
        )
    return tuple(terms)


class Step:
    """The networks, the two players, the loss terms, and the update that moves them.

    `networks` hold the weights as they are trained, saved and averaged; `working` are the same
    networks in the precision that is computed in.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: LatentSpec,
        ranks: Ranks,
        policy: Policy | None = None,
    ) -> None:
        self.config, self.spec, self.ranks = config, spec, ranks
        self.gan_start = config.adversarial.gan_start
        self.networks = build(config, spec)
        low, _ = self.networks.generator.image_range
        self.terms = (*build_terms(config, spec, low), *load_terms(config.term))
        check_names(self.terms)
        self.policy = choose(config, ranks, self.terms) if policy is None else policy
        owned = [module for term in self.terms for module in term.modules.values()]
        for network in (*self.networks, *owned):
            network.to(device=ranks.device)
            network.to(memory_format=self.policy.memory_format)  # type: ignore[call-overload]
        self.schedule = Schedule(config, spec, ranks.device)
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
            self._adversarial(config.adversarial.objective),
            config.adversarial.label_smoothing,
            self.balance,
        )
        self.scaler: torch.amp.GradScaler | None = ranks.accelerator.scaler
        self.ema = Ema(self.networks.generator, config.optimiser.ema)
        params = self._trained_parameters(self.networks, {})
        rates, betas = (
            (config.optimiser.lr_d, config.optimiser.lr_g),
            (config.optimiser.beta1, config.optimiser.beta2),
        )
        sends_bf16 = config.execution.reduce_dtype == "bf16" and ranks.world_size > 1
        reduce_dtype = torch.bfloat16 if sends_bf16 else None
        self.d, self.g = (
            Player(name, own, self.policy.dtype, lr, betas, ranks, reduce_dtype, **more)
            for name, own, lr, more in zip("dg", params, rates, self._moves(), strict=True)
        )
        copies = working_copies((self.d.flat, self.g.flat))
        generator, discriminator = self.networks
        if config.invariance.restart_step is not None:
            output_layer(discriminator, spec.q_dim)  # refused now, where there is none
        self.working = Networks(
            working_network(generator, copies), working_network(discriminator, copies)
        )
        self._working_modules = {module: working_network(module, copies) for module in owned}
        self.d_params, self.g_params = self._trained_parameters(self.working, self._working_modules)
        self._check_start()
        self._work: dict[Active, Work] = {}
        self.work(self.active(0))  # where torch cannot compile, say so now
        self._captured: dict[Active, Captured] = {}

    @staticmethod
    def _adversarial(objective: str) -> str | AdversarialPair:
        """Return an objective's name, or the losses of a user's own."""
        return load_objective(objective) if ":" in objective else objective

    def _trained_parameters(
        self, networks: Networks, copies: dict[nn.Module, nn.Module]
    ) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters that D's and that G's step trains, the terms' own at the end."""
        d, g = networks.split(self.config.information.routing)
        for term in self.terms:
            for module in term.modules.values():
                own = copies.get(module, module).parameters()
                (d if term.player == "discriminator" else g).extend(own)
        return d, g

    def _moves(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return how D and G move, as arguments of `Player`."""
        if not self.policy.fused_adam:
            return {}, {}
        average = {"average": self.ema.flat.value.detach(), "decay": self.ema.decay}
        return {"one_launch": True}, {"one_launch": True, **average}

    # The gradients

    def active(self, step: int) -> Active:
        """Return the parts of update `step` (from 0)."""
        game = step >= self.gan_start
        terms = [term for term in self.terms if term.active(step)]
        if not game:
            terms = [t for t in terms if t.real_only and t.player == "discriminator"]
        return Active(tuple(term.name for term in terms), game)

    def _active_sets(self) -> dict[Active, int]:
        """Return the distinct parts of the run's updates, each with its first update."""
        first: dict[Active, int] = {}
        for step in range(self.config.steps):
            first.setdefault(self.active(step), step)
        return first

    def _check_start(self) -> None:
        """Raise UserError where an update before the game has nothing to learn from."""
        for step in range(self.gan_start):
            if not self.active(step).terms:
                raise UserError(
                    f"--gan-start {self.gan_start}: expected a term on real images in each update "
                    f"before it, update {step} (from 0) has none; give such a term a weight "
                    "(--invariance.weight 3), or a term of your own the class attribute "
                    "real_only = True"
                )

    def work(self, active: Active) -> Work:
        """Return the gradients of such updates, compiled where the policy says so."""
        if active not in self._work:
            self._work[active] = self._bind(active.terms, self.policy.compile)
        return self._work[active]

    def eager_work(self, terms: Sequence[str]) -> Work:
        """Return the gradients of updates with the terms of these names, never compiled."""
        return self._bind(terms, compile=False)

    def _bind(self, names: Sequence[str], compile: bool) -> Work:
        scale: Scale = leave_unscaled if self.scaler is None else self.scaler.scale
        pair = (self.working, self.objective)
        terms = [term for term in self.terms if term.name in names]
        d_terms, g_terms = (
            TermSet([term for term in terms if term.player == player], self._working_modules)
            for player in ("discriminator", "generator")
        )

        def of_real(real: Tensor, extras: tuple[Extra, ...]) -> tuple[Gradients, dict[str, Tensor]]:
            return real_grads(
                self.working, self.spec, self.d_params, real.to(self.policy.dtype), scale,
                terms=d_terms, extras=extras,
            )  # fmt: skip

        def of_d(
            real: Tensor,
            latents: LatentBatch,
            extras: tuple[Extra, ...],
            fake: Tensor | None = None,
        ) -> tuple[Gradients, DRecord]:
            return d_grads(
                *pair, self.d_params, real, latents, scale, terms=d_terms, extras=extras, fake=fake
            )

        def of_g(
            latents: LatentBatch, extras: tuple[Extra, ...], fake: Tensor | None, real: Tensor
        ) -> tuple[Gradients, GRecord]:
            return g_grads(
                *pair, self.g_params, latents, scale,
                terms=g_terms, extras=extras, fake=fake, real=real,
            )  # fmt: skip

        def of_both(
            real: Tensor,
            latents: LatentBatch,
            d_extras: tuple[Extra, ...],
            g_extras: tuple[Extra, ...],
        ) -> tuple[Gradients, DRecord, Gradients, GRecord]:
            return shared_grads(
                *pair, self.d_params, self.g_params, real, latents, scale,
                d_terms=d_terms, d_extras=d_extras, g_terms=g_terms, g_extras=g_extras,
            )  # fmt: skip

        if compile:  # one graph each; shapes are fixed, a new one is an error
            of_real, of_d = compile_whole(of_real), compile_whole(of_d)
            of_g, of_both = compile_whole(of_g), compile_whole(of_both)
        return Work(d_terms, g_terms, of_real, of_d, of_g, of_both)

    def prepare(self, real: Tensor) -> list[str]:
        """Compile and capture for batches like `real`, which leaves no trace in the weights.

        Returns lines on what did not go as planned.
        """
        if not (self.policy.compile or self.policy.capture):
            return []
        if self.scaler is not None:
            self.scaler.scale(torch.zeros((), device=real.device))  # it makes its tensors now
        notes = self._compile(real)
        if not self.policy.capture:
            return notes
        try:
            for active, first in self._active_sets().items():
                step = torch.tensor(first, device=real.device)
                self._captured[active] = Captured(
                    partial(self._update, active=active),
                    self._state(),
                    (step, real),
                    agree=self.ranks.first_failure,
                )
        except CaptureFailed as error:
            self._captured.clear()
            self.policy = self.policy.without_capture(str(error))
            notes.append(f"the update runs without a CUDA graph: {error}")
        return notes

    def _compile(self, real: Tensor) -> list[str]:
        """Run a first update, for which the compiler runs; go on without it where it fails."""
        try:
            with restore(self._state()), without_warnings():
                for active, first in self._active_sets().items():
                    self._update(first, real, active)
        except TorchDynamoException as error:
            why = " ".join(str(error).strip().splitlines()[:2])  # the backend, what it said
            # Other ranks wait in an all-reduce for what this one has not computed.
            if self.config.execution.compile == "on" or self.ranks.world_size > 1:
                raise UserError(f"torch.compile failed, use --compile off: {why}") from error
            self.policy = self.policy.without_compile(why)
            self._work.clear()
            return [f"the update is not compiled: {why}"]
        return []

    def _state(self) -> list[Tensor]:
        """Return all that an update changes, parameters and moments in their buffers."""
        tensors: list[Tensor] = [self.ema.flat.value, *self.d.state(), *self.g.state()]
        for module in self.modules().values():
            tensors += module.buffers()
        if self.scaler is not None:
            tensors += [self.scaler._scale, self.scaler._growth_tracker]  # type: ignore[list-item]
        return [t.detach() for t in tensors if isinstance(t, Tensor)]

    def refresh(self) -> None:
        """Take up weights that were written from outside (a checkpoint, a broadcast)."""
        self.d.flat.refresh()
        self.g.flat.refresh()

    def restart_categories(self, images: Tensor) -> Starts:
        """Write the last layer of the first categorical code anew: the best of many starts.

        images: [N, C, H, W] in the generator's range. Call `took_restart` after it, on every rank.
        """
        of, discriminator = self.config.invariance, self.networks.discriminator
        layer = output_layer(discriminator, self.spec.q_dim)
        columns = categorical_columns(self.spec)[0]
        recipe = next(term.recipe for term in self.terms if isinstance(term, Invariance))
        assert recipe is not None
        starts = fit(
            *features(discriminator, layer, images, recipe, self.config.seed),
            columns.stop - columns.start,
            of.restarts,
            self.config.seed,
            of.standardise(self.config.adversarial.spectral_norm),
        )
        put(starts, layer, columns)
        return starts

    def took_restart(self) -> None:
        """Take up the categories' new layer, whose moments in Adam are those of no other."""
        self.ranks.broadcast_([self.d.flat.value.data])
        self.refresh()
        layer = output_layer(self.networks.discriminator, self.spec.q_dim)
        for param in (layer.weight, layer.bias):
            self.d.forget(param, categorical_columns(self.spec)[0])

    # The update

    def __call__(self, step: int, real: Tensor) -> Record:
        """Run update `step` (from 0) on real images [B, C, H, W]."""
        active = self.active(step)
        if step == self.gan_start > 0:
            # D's moments are those of another loss, and 0 for its logit, which Adam, having counted
            # the updates, would take for tiny gradients and move it by far more than the rate.
            self.d.restart()
        if active in self._captured:
            record: Record = self._captured[active](step, real)
            return record
        return self._update(step, real, active)

    def _update(self, step: int | Tensor, real: Tensor, active: Active) -> Record:
        """Run an update with these parts: everything between two reads by the host."""
        self.schedule.set(step, None if self.balance is None else self.balance.factors())
        for player in (self.d, self.g):
            player.set_rate(self.schedule.rate(player.lr, step))
        if not active.game:
            self.d.set_rate(self.schedule.start_rate(step))
        at = Address(self.config.seed, step, self.ranks.rank * len(real))
        update = UPDATES[self.config.execution.step] if active.game else real_alone
        record = update(self, self.work(active), at, real)
        if self.scaler is not None:
            self.scaler.update()
        if active.game and self.policy.fused_adam:  # the kernel has moved the average
            self.ema.copy_buffers()
        elif active.game:  # the average counts G's updates
            n = step - self.gan_start if self.gan_start else step
            self.ema.update(n, self.g.flat.value.detach())
        return record

    def begin(self, latents: LatentBatch) -> Tensor | None:
        """Return G's images with their graph; None where a compiled function has the pass."""
        return None if self.policy.compile else generate(self.working, latents)

    def latents(self, at: Address, stream: Stream, batch: int) -> LatentBatch:
        """Draw this rank's rows of the global batch."""
        return self.spec.sample(
            batch,
            device=self.ranks.device,
            seed=at.seed,
            step=at.step,
            stream=stream,
            first_row=at.first_row,
        )

    # What a run keeps

    def modules(self) -> dict[str, nn.Module]:
        """Return the networks by the names that checkpoints use."""
        modules: dict[str, nn.Module] = {
            "generator": self.networks.generator,
            "generator_ema": self.ema.module,
            "discriminator": self.networks.discriminator,
        }
        for term in self.terms:
            modules |= term.modules
        return modules if self.balance is None else {**modules, "balance": self.balance}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return Adam's moments and counts, live, by name."""
        return self.d.tensors() | self.g.tensors()

    def working_modules(self) -> dict[str, nn.Module]:
        """Return the networks that are computed with, in the run's precision, by name."""
        modules: dict[str, nn.Module] = self.working._asdict()
        for term in self.terms:
            modules |= {name: self._working_modules[own] for name, own in term.modules.items()}
        return modules

    def average_buffers(self) -> None:
        """Average BatchNorm's running buffers, which are each rank's own, over the ranks."""
        self.ranks.average_([b for module in self.modules().values() for b in module.buffers()])
