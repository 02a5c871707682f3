"""The run: updates, metrics, pictures and checkpoints, from the folder that holds it to its end.

The command and `fastinfogan.fit` both run it. Pictures and the evaluation come from above, as
`Hooks`.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import torch
import yaml
from torch import Tensor

from .. import data, device, parallel
from ..atomic import parse_json, read_text
from ..config import OPTIONS, TrainConfig, check, leaves, to_yaml
from ..console import say
from ..data import streaming
from ..data.splits import expand_user
from ..data.workers import Interrupted, Stream
from ..errors import LostRank, NonFiniteLoss, UserError
from ..latents import LatentSpec
from ..losses import info_loss
from ..networks import Generator
from ..parallel import Ranks, StopSignal
from ..presets.adapting import adapt
from ..training import metrics, restarts
from ..training.cost import cost_line
from ..training.metrics import Metrics, Stopwatch
from ..training.progress import Progress
from ..training.selfcheck import check_layers
from ..training.step import Step
from ..training.tracking import Tracking, parse_trackers
from . import checkpoint
from .folder import Loaded, RunDir, write_json
from .resume import open_folder, resume

AGREE_EVERY = 10  # updates between the ranks' agreements on whether to stop, on GPUs
Splits = dict[data.Split, data.Images]
Callback = Callable[[int, dict[str, Any]], object]
LogPictures = Callable[[int, dict[str, Any]], None]


class Hooks(NamedTuple):
    """The parts of a run that come from above it; all are called on rank 0.

    Attributes:
        draw: (folder of pictures, updates done, G's average, spec, real images,
            trackers' logging of pictures, if there are trackers).
        evaluate: (run, updates done, name of the data, networks, images, print lines).
        watch: (networks, images), returns the code accuracy for --watch-labels.
    """

    draw: Callable[[Path, int, Generator, LatentSpec, data.Images, LogPictures | None], None]
    evaluate: Callable[[RunDir, int, str, Loaded, Splits, Callable[..., None]], None]
    watch: Callable[[Loaded, Splits], float]


def run(
    config: TrainConfig,
    hooks: Hooks,
    *,
    splits: Splits | None = None,
    callbacks: Sequence[Callback] = (),
    in_callers_process: bool = False,
    given: frozenset[str] = frozenset(),
) -> int:
    """Run or resume the training that `config` describes, and return its exit code.

    Args:
        config: the configuration, not yet adapted to its data, nor checked.
        hooks: pictures and evaluation.
        splits: the images, where `config.data.data` does not name a set to read.
        callbacks: called as callback(step, record) at each log interval; one that returns True
            stops the run after saving. A KeyboardInterrupt from one saves, then goes on.
        in_callers_process: leave process-wide settings as they are: Accelerate's state, unless
            several ranks were launched, and the number of threads, unless --threads says one.
        given: the spellings of the options that were given; adapting changes none of them.
    """
    stop = StopSignal()
    cpu = device.use_cpu()
    precision, reason = device.choose_precision(config.precision, cpu)
    # Accelerate's state has one precision: a second training of a process may have another.
    own = parallel.is_alone() and (in_callers_process or parallel.is_started())
    start = parallel.start_alone if own else parallel.start
    ranks = start(device.accelerate_name(precision), cpu)
    try:
        # With the other ranks, who would wait for one that fails before it joins them.
        config, notes = ranks.on_all(lambda: _prepare(config, given, in_memory=splits is not None))
        threads = config.threads or (0 if in_callers_process else device.cpu_threads())
        if threads:
            torch.set_num_threads(threads)
        environment = device.environment(ranks.device, precision, reason, ranks.world_size)
        for line in notes if ranks.is_main else ():
            say(line)
        return Training(config, ranks, stop, environment, hooks, splits, callbacks).run()
    finally:
        ranks.close()


def _prepare(
    config: TrainConfig, given: frozenset[str], in_memory: bool
) -> tuple[TrainConfig, list[str]]:
    """Return the configuration that is trained, with absolute paths, and lines to print."""
    config, notes = adapt(config, given)
    check(config)
    parse_trackers(config.logging.track)
    choice, stand_in = (config.data.data, "") if in_memory else data.choose(config.data.data)
    config = config.with_options(data=data.absolute(choice))
    if not in_memory:
        settled = data.settle(config.data.data, config.data.stream)
        config = config.with_options(stream=settled)
    if config.resume not in ("auto", "never"):
        config = config.with_options(resume=str(expand_user(config.resume).resolve()))
    return config, [*notes, *filter(None, [stand_in])]


class Training:
    """One run: its networks, its folder, its loop."""

    def __init__(
        self,
        config: TrainConfig,
        ranks: Ranks,
        stop: StopSignal,
        environment: dict[str, Any],
        hooks: Hooks,
        splits: Splits | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config, self.ranks, self.stop = config, ranks, stop
        self.environment, self.hooks, self.callbacks = environment, hooks, callbacks
        ranks.agree(_shared_state(config, environment))
        self.spec: LatentSpec = config.spec()
        ranks.on_all(self._try_backend)
        self.dir = RunDir(config.run_dir)
        self._lock: filelock.BaseFileLock | None = None  # on rank 0
        # Open the folder first: a wrong one should not cost the time to read the images.
        ranks.on_main(self._open_folder)
        try:
            self._build(splits)
        except BaseException:
            self._unlock()
            raise

    def _build(self, splits: Splits | None) -> None:
        ranks = self.ranks
        images = ranks.on_all(lambda: self._read_images(splits))
        ranks.agree({"data": images})
        self.step = self._build_step()
        self.environment |= self.step.policy.record()
        self.identity = {  # what alters the weights and is not in the configuration
            "precision": self.environment["precision"],
            "world_size": ranks.world_size,
            "data": images,
        }
        names = [term.name for term in self.step.terms]
        self.metrics = Metrics(self.spec, ranks, names, self.step.gan_start)
        self.watch = Stopwatch(ranks.device)
        self.good: Path | None = None  # the last good checkpoint
        self.tracking: Tracking | None = None  # on rank 0, where --track names a tracker

    def _build_step(self) -> Step:
        """Return the update, in fp32 where this machine computes wrong numbers otherwise."""
        step = Step(self.config, self.spec, self.ranks)
        began = time.perf_counter()
        failure = self.ranks.first_failure(check_layers(step))
        self.environment["self_check_seconds"] = round(time.perf_counter() - began, 3)
        if not failure:
            return step
        failed = self.environment["precision"]
        self.environment |= {
            "precision": "fp32",
            "precision_reason": f"{failed} failed the self-check: {failure}",
            "precision_failed": failed,
        }
        return Step(self.config, self.spec, self.ranks, step.policy.in_fp32())

    def _try_backend(self) -> None:
        """Refuse now, by a loss of no rows, what would fail in the first update."""
        none = self.spec.sample(0, device=self.ranks.device, seed=0)
        q = torch.zeros(0, self.spec.q_dim, device=self.ranks.device)
        try:
            info_loss(q, self.spec, none[1], none[2], backend=self.config.information.backend)
        except ValueError as error:
            raise UserError(f"--backend {self.config.information.backend}: {error}") from None

    def _open_folder(self) -> None:
        self._lock = open_folder(self.config, self.dir)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _read_images(self, splits: Splits | None) -> str:
        """Read `splits`, put the training images into `batches`; return their checksum."""
        config, ranks = self.config, self.ranks
        self.splits = splits or data.load(
            config.data.data,
            image_size=config.data.image_size,
            channels=config.data.channels,
            stream=config.data.stream,
            **config.data.reading(),
        )
        images = self.splits["train"].images
        self.batches = data.batches(
            images,
            ranks.device,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        if isinstance(self.batches, Stream):
            alone = ranks.world_size == 1
            self.batches.interrupted = self.stop.check if alone else self.stop.is_overdue
        return streaming.checksum(images)

    # From start to end

    def run(self) -> int:
        """Train to the last step, evaluate, and say how it went. Returns the exit code."""
        try:
            return self._run()
        except NonFiniteLoss as error:
            advice = "try a lower --lr-g or --lr-d, or --precision fp32, in another --out"
            words = f"{error}{self._last_good()}; {advice}"
            raise NonFiniteLoss(words, not self.ranks.is_main) from None
        except LostRank as error:
            words = f"{error}{self._last_good()}; run {self._again()} to go on"
            raise LostRank(words) from None
        finally:
            self.batches.close()
            if self.tracking is not None:
                self.tracking.close()
            self._unlock()

    def _run(self) -> int:
        config, ranks = self.config, self.ranks
        start = ranks.on_main(
            lambda: resume(config, self.dir, self._tensors(), self.identity, self.environment)
        )
        ranks.broadcast_(t for named in self._tensors().values() for t in named.values())
        self.step.refresh()
        if self.step.scaler is not None and start.scaler is not None:
            self.step.scaler.load_state_dict(start.scaler)
        self.good = start.good
        self._say(*start.notes)
        if start.step >= config.steps:
            self._say(
                f"{self.dir.path} is finished: {start.step} of {config.steps} updates are done; "
                "raise --steps to go on"
            )
            if ranks.on_main(lambda: self._is_evaluated(start.step)):
                return 0
            self._pictures(start.step)
        else:
            if config.logging.watch_labels:  # refused now, where it cannot be done
                self._measure_codes()
            self._prepare()
            ranks.on_main(lambda: self._track(start.step))
            self._announce(start.step)
            stopped = self._loop(start.step)
            if stopped:
                return 128 + stopped
        ranks.on_main(lambda: self._evaluate(max(start.step, config.steps)))
        return 0

    def _loop(self, start: int) -> int:
        """Do updates start+1 … steps. Returns the signal that ended them, or 0."""
        config = self.config
        if start == 0:
            self._pictures(0)
        received, done = 0, start
        terms = self.metrics.terms
        with self.stop, Progress(config, self.spec, self.ranks, start, terms) as progress:
            for n in range(start, config.steps):
                # Update
                images = self._batch(n)
                if images is None:
                    received, done = self.stop.check(), n
                    break
                self._update(n, images)
                progress.advance()
                done = n + 1
                last = done == config.steps

                # Report
                record, stop = None, 0
                if done % config.logging.log_every == 0 or last:
                    record = self._log(done, partial=done % config.logging.log_every != 0)
                    stop = self._call_back(done, record)
                received = self._agree(done, last) or stop

                # Checkpoint and snapshot
                save = _due(done, config.logging.checkpoint_every) or last or bool(received)
                draw = _due(done, config.logging.sample_every) or last
                if save or draw:
                    self._keep(done, save=save, draw=draw)
                if record is not None:
                    progress.show(record)
                if received:
                    break
            received = received or self._agree(config.steps, last=True)
        if received:
            name = "a callback" if received == STOPPED else signal.Signals(received).name
            saved = "nothing saved" if self.good is None else f"saved after update {done}"
            self._say(f"{name}: {saved}; run {self._again()} to go on")
        return received

    def _update(self, n: int, images: Tensor) -> None:
        """Do update n, from 0, and take its terms into the metrics."""
        if n == self.config.invariance.restart_step:
            self._restart_categories()
        real = data.to_range(images, self.step.networks.generator.image_range)
        terms = self.step(n, real)
        self.metrics.add(n + 1, *terms)
        self.watch.count(self.config.batch_size * self.ranks.world_size)
        self.watch.start()  # after the first update, which pays for the start

    def _restart_categories(self) -> None:
        """Start the categories anew, many times; the best is every rank's."""
        self.watch.pause()  # `_update` starts it again
        images = self.splits["train"].images
        image_range = self.step.networks.generator.image_range

        def best() -> str:
            some = torch.from_numpy(images[streaming.evenly(len(images), restarts.IMAGES)])
            real = data.to_range(some.to(self.ranks.device), image_range)
            return self.step.restart_categories(real).line()

        line = self.ranks.on_main(best)
        self.step.took_restart()
        self._say(line)

    def _batch(self, done: int) -> Tensor | None:
        """Return the next images; None where a signal to stop came while they were waited for.

        Then, and where a streamed image cannot be read, save what a single rank has so far. Several
        ranks cannot: the others are in an update that this rank does not come to.
        """
        step = 0 if self.good is None else checkpoint.step_of(self.good)
        try:
            return self.batches(done)
        except Interrupted:
            if self.ranks.world_size == 1 and done != step:
                self.save(done)
            return None
        except UserError as error:
            if self.ranks.world_size > 1 or done == step:
                raise
            self.save(done)
            raise UserError(f"{error}; saved after update {done}") from None

    def _keep(self, done: int, *, save: bool, draw: bool) -> None:
        """Write a checkpoint, draw pictures, or both; the stopwatch leaves them out."""
        self.watch.pause()
        if save:
            self.save(done)
        if draw:
            self._pictures(done)
        self.watch.start()

    def _log(self, done: int, partial: bool) -> dict[str, Any]:
        """Write one line of metrics.jsonl. That of a last step off the grid stays provisional."""
        self.metrics.check_finite()
        images = done * self.config.batch_size * self.ranks.world_size
        record = self.metrics.record(done, images, self.watch.rate())
        if self.config.logging.watch_labels:
            self.watch.pause()
            record["code_accuracy"] = self._measure_codes()
            self.watch.start()
        if partial:
            record["partial"] = True
        else:
            self.metrics.reset()
        self.ranks.on_main(lambda: self._write_record(record))
        return record

    def _measure_codes(self) -> float:
        """Return the code accuracy now, by labels that training does not use."""
        generator: Any = self.step.ema.module
        networks = Loaded(generator, self.step.networks.discriminator, self.spec)
        return self.ranks.on_main(lambda: self.hooks.watch(networks, self.splits))

    def _write_record(self, record: dict[str, Any]) -> None:
        metrics.append(self.dir.metrics, record)
        if self.tracking is not None:
            self.tracking.log(record)

    def _track(self, start: int) -> None:
        names = parse_trackers(self.config.logging.track)
        if names:
            self.tracking = Tracking(
                names,
                self.dir.path,
                project=self.config.logging.project,
                config=yaml.safe_load(to_yaml(self.config)),
                start=start,
                warn=lambda line: say(line, sys.stderr),
            )

    def _call_back(self, done: int, record: Mapping[str, Any]) -> int:
        """Call the callbacks, on rank 0. Returns `STOPPED` where one asks for the end, else 0."""
        if not self.callbacks:
            return 0
        stop = 0
        if self.ranks.is_main:
            try:
                answers = [callback(done, dict(record)) for callback in self.callbacks]
            except KeyboardInterrupt:
                if self.ranks.world_size == 1:
                    self.save(done)
                raise
            stop = STOPPED if any(answer is True for answer in answers) else 0
        return self.ranks.most_urgent(stop)

    def _agree(self, done: int, last: bool) -> int:
        """Return the signal to stop for, or 0, the same on every rank; the device is not read."""
        every = 1 if self.ranks.device.type == "cpu" else AGREE_EVERY
        if done % every and not last:
            return 0
        return self.ranks.most_urgent(self.stop.check())

    # What is kept

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all that a checkpoint holds, live, by file and name."""
        model = {
            f"{prefix}.{name}": tensor
            for prefix, module in self.step.modules().items()
            for name, tensor in module.state_dict().items()
        }
        return {
            "model": model,
            "training": self.step.optimizer_tensors() | self.metrics.tensors(),
        }

    def save(self, step: int) -> None:
        """Write a checkpoint, unless what it would hold is not finite."""
        self.metrics.check_finite()
        self.step.average_buffers()
        self.metrics.average()
        self._check_weights(step)
        scaler = self.step.scaler
        meta = self.identity | {"scaler": None if scaler is None else scaler.state_dict()}
        folder, keep = self.dir.checkpoints, self.config.logging.keep

        def write() -> Path:
            # Known here as soon as it is there: the other ranks may be lost before they hear of it.
            self.good = checkpoint.save(folder, step, self._tensors(), meta, keep)
            return self.good

        self.good = self.ranks.on_main(write)

    def _check_weights(self, step: int) -> None:
        tensors = [t for named in self._tensors().values() for t in named.values()]
        finite = torch.stack([t.isfinite().all() for t in tensors]).all().to(torch.int64)
        if not int(self.ranks.minimum(finite)):
            raise NonFiniteLoss(f"non-finite weights after update {step}")

    def _pictures(self, done: int) -> None:
        self.step.average_buffers()
        self.ranks.on_main(lambda: self._draw(done))

    def _draw(self, done: int) -> None:
        generator: Any = self.step.ema.module
        log = None if self.tracking is None else self.tracking.log_pictures
        self.hooks.draw(self.dir.samples, done, generator, self.spec, self.splits["train"], log)
        records = metrics.read(self.dir.metrics)
        if records:
            path = self.dir.samples / "curves.png"
            metrics.draw_curves(records, self.spec, path, self.step.gan_start)

    def _evaluate(self, done: int) -> None:
        self._say("evaluating …")
        generator: Any = self.step.ema.module
        networks = Loaded(generator, self.step.networks.discriminator.eval(), self.spec)
        name = self.config.data.data
        self.hooks.evaluate(self.dir, done, name, networks, self.splits, self._say)
        self._say(f"pictures in {self.dir.samples}")

    def _is_evaluated(self, step: int) -> bool:
        try:
            result = parse_json(read_text(self.dir.evaluation))
        except (OSError, ValueError):
            return False
        expected = {"step": step, "data": self.config.data.data}
        return isinstance(result, dict) and expected.items() <= result.items()

    # Words

    def _prepare(self) -> None:
        """Compile and capture, where that is the policy."""
        config = self.config
        side, device = config.data.image_size, self.ranks.device
        example = torch.rand(config.batch_size, side, side, config.data.channels, device=device)
        self._say(*self.step.prepare(example.permute(0, 3, 1, 2)))
        self.environment |= self.step.policy.record()
        self.ranks.on_main(lambda: write_json(self.dir.environment, self.environment))

    def _announce(self, start: int) -> None:
        e, config = self.environment, self.config
        ranks = "" if e["world_size"] == 1 else f", {e['world_size']} ranks"
        self._say(
            f"{config.preset}: updates {start + 1} to {config.steps} at batch "
            f"{config.batch_size}{ranks}, into {self.dir.path}",
            f"{e['device']}, {e['threads']} thread{'s' * (e['threads'] != 1)}, {e['precision']} "
            f"({e['precision_reason']})",
            f"{config.execution.step} step, {self.step.policy.name} ({e['step_reason']})"
            f", {e['memory_format']}",
            *filter(None, [cost_line(config, e["world_size"])]),
            *self._start_line(start),
            *self.splits["train"].notes,
        )

    def _start_line(self, start: int) -> list[str]:
        """Return the line on the updates before the game, where there are some to do."""
        gan_start = self.step.gan_start
        if start >= gan_start:
            return []
        return [
            f"updates {start + 1} to {gan_start} train D and Q on real images alone; G and the "
            f"game begin with update {gan_start + 1} (--gan-start)"
        ]

    def _last_good(self) -> str:
        return f"; {self.good} is the last good checkpoint" if self.good else "; nothing saved"

    def _again(self) -> str:
        return "again" if self.config.resume != "never" else "again with --resume auto"

    def _say(self, *lines: str) -> None:
        if self.ranks.is_main:
            for line in lines:
                say(line)


STOPPED = 127  # in place of a signal's number: a callback ended the run


def _shared_state(config: TrainConfig, environment: dict[str, Any]) -> dict[str, object]:
    """Return what every rank must have alike, by the name to show."""
    versions = environment["packages"]
    facts = {name: versions[name] for name in ("fastinfogan", "torch")}
    facts |= {name: environment[name] for name in ("device", "precision")}
    # A rank's machine may have paths of its own, of which rank 0's count, and threads.
    options = {
        f"--{name}": value
        for name, value in leaves(config).items()
        if name != "precision" and not OPTIONS[name].rule.of_each_rank
    }
    return facts | options


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
