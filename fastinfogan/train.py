"""The main command: `accelerate launch -m fastinfogan.train [PRESET] …`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import torch
import yaml
from torch import Tensor

from . import data, device, parallel
from .atomic import write_atomically
from .cli import guarded, parse
from .config import OPTIONS, TrainConfig, check, differences, leaves, to_yaml
from .console import say
from .data import census
from .data import streaming as stream
from .data.workers import Interrupted, Stream
from .errors import LostRank, NonFiniteLoss, UserError
from .evaluation import measure, pictures
from .latents import LatentSpec
from .losses import info_loss
from .parallel import Ranks, StopSignal
from .runs import checkpoint
from .runs.checkpoint import Checkpoint
from .runs.folder import Loaded, RunDir, write_json
from .training import metrics
from .training.metrics import Metrics, Stopwatch
from .training.progress import Progress
from .training.step import Step
from .training.tracking import Tracking, parse_trackers

AGREE_EVERY = 10  # updates between the ranks' agreements on whether to stop, on GPUs


class Start(NamedTuple):
    """Where a run begins."""

    step: int = 0
    good: Path | None = None  # the checkpoint that it begins with
    scaler: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def train(config: TrainConfig) -> int:
    """Run or resume the training that `config` describes; returns the exit code."""
    check(config)
    parse_trackers(config.logging.track)
    choice, stand_in = data.choose(config.data.data)
    config = config.with_options(data=data.absolute(choice))
    if config.resume not in ("auto", "never"):
        config = config.with_options(resume=str(Path(config.resume).expanduser().resolve()))
    stop = StopSignal()
    precision, reason = device.choose_precision(config.precision, device.use_cpu())
    ranks = parallel.start(device.accelerate_name(precision), device.use_cpu())
    try:
        torch.set_num_threads(config.threads or device.cpu_threads())
        environment = device.environment(ranks.device, precision, reason, ranks.world_size)
        if stand_in and ranks.is_main:
            say(stand_in)
        return Training(config, ranks, stop, environment).run()
    finally:
        ranks.close()


def _shared(config: TrainConfig, environment: dict[str, Any]) -> dict[str, object]:
    """What every rank must have alike, by the name to show."""
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


class Training:
    """One run: its networks, its folder, its loop."""

    def __init__(
        self, config: TrainConfig, ranks: Ranks, stop: StopSignal, environment: dict[str, Any]
    ) -> None:
        self.config, self.ranks, self.stop = config, ranks, stop
        self.environment = environment
        ranks.agree(_shared(config, environment))
        self.spec: LatentSpec = config.spec()
        ranks.on_all(self._try_backend)
        self.dir = RunDir(config.run_dir)
        self._lock: filelock.BaseFileLock | None = None  # on rank 0
        # Open the folder first: a wrong one should not cost the time to read the images.
        ranks.on_main(self._open_folder)
        self.identity = {  # beside the configuration, what alters the weights' path
            "precision": environment["precision"],
            "world_size": ranks.world_size,
            "data": ranks.on_all(self._read_images),
        }
        ranks.agree({"data": self.identity["data"]})
        self.step = Step(config, self.spec, ranks)
        environment |= self.step.policy.record()
        self.metrics = Metrics(self.spec, ranks, [term.name for term in self.step.terms])
        self.watch = Stopwatch(ranks.device)
        self.good: Path | None = None  # the last good checkpoint
        self.tracking: Tracking | None = None  # on rank 0, where --track names a tracker

    def _try_backend(self) -> None:
        """Refuse now, by a loss of no rows, what would fail in the first update."""
        none = self.spec.sample(0, device=self.ranks.device, seed=0)
        q = torch.zeros(0, self.spec.q_dim, device=self.ranks.device)
        try:
            info_loss(q, self.spec, none[1], none[2], backend=self.config.information.backend)
        except ValueError as error:
            raise UserError(f"--backend {self.config.information.backend}: {error}") from None

    def _read_images(self) -> str:
        """Read `splits`, put what is trained on into `batches`; returns its checksum and size."""
        config, ranks = self.config, self.ranks
        self.splits = data.load(
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
        if isinstance(self.batches, Stream) and ranks.world_size == 1:
            self.batches.interrupted = self.stop.check
        return stream.checksum(images)

    # The folder

    def _open_folder(self) -> None:
        """On rank 0: take the folder and refuse one that is not this run's."""
        config, run = self.config, self.dir
        run.make()
        self._lock = run.lock()
        checkpoint.clear_leftovers(run.checkpoints)
        existing = run.read_config()
        if existing is None and checkpoint.list_newest_first(run.checkpoints):
            raise UserError(f"{run.path} has checkpoints but no config.yaml; choose another --out")
        if existing is None:
            return
        if config.resume == "never":
            raise UserError(
                f"{run.path} holds a run already; choose another --out or use --resume auto"
            )
        changed = differences(existing, config)
        if changed:
            raise UserError(
                f"{run.path} holds a run of another configuration ({', '.join(changed)}); choose "
                "another --out or the run's own values"
            )

    def _resume(self) -> Start:
        """On rank 0: load the checkpoint to start from, if any, and bring the folder in line."""
        run, resume = self.dir, self.config.resume
        source = run
        found, notes = checkpoint.load_newest(run.checkpoints)
        existing = run.read_config()
        began = resume if existing is None else existing.resume
        if resume in ("auto", "never"):
            resume = began
        if resume not in ("auto", "never") and not (found and resume == began):
            source, found, notes = self._checkpoint_at(Path(resume))
        if found is None:
            self._check_space()
            metrics.cut_back(run.metrics, 0)
            self._write_config()
            return Start(notes=tuple(notes))
        for name, here in self.identity.items():
            there = found.meta.get(name)
            if there != here:
                raise UserError(
                    f"{found.path} was trained with {name} {there}, this run has {name} {here}; "
                    f"give it the same {name}, or choose another --out"
                )
        for file, tensors in self._tensors().items():
            checkpoint.restore(tensors, found.tensors.get(file, {}), str(found.path))
        if found.step < self.config.steps:
            self._check_space()
            if source is not run:  # from here on this folder stands alone
                records = source.metrics.read_bytes() if source.metrics.is_file() else b""
                write_atomically(run.metrics, records)
                self._write_config()  # first: a kill behind it begins from the PATH again
                meta, keep = found.meta, self.config.logging.keep
                checkpoint.save(run.checkpoints, found.step, found.tensors, meta, keep)
            metrics.cut_back(run.metrics, found.step)
            self._write_config()
        elif source is not run:
            raise UserError(f"--resume {resume}: has {found.step} updates already; raise --steps")
        return Start(found.step, found.path, found.meta.get("scaler"), tuple(notes))

    def _checkpoint_at(self, path: Path) -> tuple[RunDir, Checkpoint | None, list[str]]:
        """The checkpoint that `--resume PATH` names: a run's newest, or one of its folders."""
        named = path if (path / checkpoint.MANIFEST).is_file() else None
        source = RunDir(path.parent.parent if named else path)
        existing = source.read_config()
        if existing is None:
            raise UserError(f"--resume {path}: neither a run nor a checkpoint of one")
        changed = differences(existing, self.config)
        if changed:
            raise UserError(f"--resume {path}: of another configuration ({', '.join(changed)})")
        notes: list[str] = []
        if named:
            try:
                found: Checkpoint | None = checkpoint.load(named)
            except checkpoint.Damaged as error:
                raise UserError(f"--resume {path}: damaged ({error})") from None
        else:
            found, notes = checkpoint.load_newest(source.checkpoints)
        if found is None:
            raise UserError(f"--resume {path}: that run has no checkpoint")
        held = checkpoint.list_newest_first(self.dir.checkpoints)
        if source.path.resolve() == self.dir.path.resolve():
            source = self.dir
            held = [p for p in held if checkpoint.step_of(p) > found.step]
        if held:
            raise UserError(
                f"--resume {path}: {self.dir.path} holds {held[0].name}; choose another --out, or "
                "--resume auto to go on with what is there"
            )
        return source, found, notes

    def _write_config(self) -> None:
        existing = self.dir.read_config()
        began = self.config if existing is None else replace(self.config, resume=existing.resume)
        write_atomically(self.dir.config, to_yaml(began))
        write_json(self.dir.environment, self.environment)

    def _check_space(self) -> None:
        needed = sum(t.nbytes for named in self._tensors().values() for t in named.values())
        free = shutil.disk_usage(self.dir.path).free
        if free < needed * 1.1:
            raise UserError(
                f"{self.dir.path}: {free / 1e6:,.0f} MB free, one checkpoint takes "
                f"{needed / 1e6:,.0f} MB; free some space or choose another --out"
            )

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """All that a checkpoint holds, live, by file and name."""
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

    # The loop

    def run(self) -> int:
        """Train to the last step, evaluate, and say how it went."""
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

    def _last_good(self) -> str:
        return f"; {self.good} is the last good checkpoint" if self.good else "; nothing saved"

    def _again(self) -> str:
        return "again" if self.config.resume != "never" else "again with --resume auto"

    def _run(self) -> int:
        config, ranks = self.config, self.ranks
        start = ranks.on_main(self._resume)
        ranks.broadcast_(t for named in self._tensors().values() for t in named.values())
        self.step.refresh()
        if self.step.scaler is not None and start.scaler is not None:
            self.step.scaler.load_state_dict(start.scaler)
        self.good = start.good
        self._say(*start.notes)
        if start.step >= config.steps:
            self._say(
                f"{self.dir.path} is finished: {start.step} updates of {config.steps} asked; "
                "raise --steps to go on"
            )
            if ranks.on_main(lambda: self._is_evaluated(start.step)):
                return 0
            self._pictures(start.step)
        else:
            self._prepare()
            ranks.on_main(lambda: self._track(start.step))
            self._announce(start.step)
            stopped = self._loop(start.step)
            if stopped:
                return 128 + stopped
        ranks.on_main(lambda: self._evaluate(max(start.step, config.steps)))
        return 0

    def _is_evaluated(self, step: int) -> bool:
        try:
            result = json.loads(self.dir.evaluation.read_text())
        except (OSError, ValueError):
            return False
        expected = {"step": step, "data": self.config.data.data}
        return isinstance(result, dict) and expected.items() <= result.items()

    def _loop(self, start: int) -> int:
        """Updates start+1 … steps. Returns the signal that ended them, or 0."""
        config = self.config
        image_range = self.step.networks.generator.image_range
        global_batch = config.batch_size * self.ranks.world_size
        if start == 0:
            self._pictures(0)
        received = 0
        with self.stop, Progress(config, self.spec, self.ranks, start) as progress:
            for n in range(start, config.steps):
                images = self._batch(n)
                if images is None:
                    received, done = self.stop.check(), n
                    break
                real = data.to_range(images, image_range)
                terms = self.step(n, real)
                done = n + 1
                self.metrics.add(done, *terms)
                self.watch.count(global_batch)
                self.watch.start()  # after the first update, which pays for the start
                progress.advance()
                last = done == config.steps
                record = None
                if done % config.logging.log_every == 0 or last:
                    record = self._log(done, partial=done % config.logging.log_every != 0)
                received = self._agreed(done, last)
                save = _due(done, config.logging.checkpoint_every) or last or received
                draw = _due(done, config.logging.sample_every) or last
                if save or draw:
                    self.watch.pause()
                    if save:
                        self.save(done)
                    if draw:
                        self._pictures(done)
                    self.watch.start()
                if record is not None:
                    progress.show(record)
                if received:
                    break
            received = received or self._agreed(config.steps, last=True)
        if received:
            name = signal.Signals(received).name
            saved = "nothing saved" if self.good is None else f"saved after update {done}"
            self._say(f"{name}: {saved}; run {self._again()} to go on")
        return received

    def _batch(self, done: int) -> Tensor | None:
        """The next images; None where a signal to stop came while one rank waited for them.

        Then, and where a streamed image cannot be read, save what one rank has so far.
        """
        held = 0 if self.good is None else checkpoint.step_of(self.good)
        try:
            return self.batches(done)
        except Interrupted:
            if done != held:
                self.save(done)
            return None
        except UserError as error:
            if self.ranks.world_size > 1 or done == held:
                raise
            self.save(done)
            raise UserError(f"{error}; saved after update {done}") from None

    def _agreed(self, done: int, last: bool) -> int:
        """The signal to stop for, or 0: the same on every rank. Without a look at the device."""
        every = 1 if self.ranks.device.type == "cpu" else AGREE_EVERY
        if done % every and not last:
            return 0
        return self.ranks.most_urgent(self.stop.check())

    def _log(self, done: int, partial: bool) -> dict[str, Any]:
        """One line of metrics.jsonl. The line of a last step off the grid stays provisional."""
        self.metrics.check_finite()
        images = done * self.config.batch_size * self.ranks.world_size
        record = self.metrics.record(done, images, self.watch.rate())
        if partial:
            record["partial"] = True
        else:
            self.metrics.reset()
        self.ranks.on_main(lambda: self._write_record(record))
        return record

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

    def _pictures(self, done: int) -> None:
        self.step.average_buffers()
        self.ranks.on_main(lambda: self._draw(done))

    def _draw(self, done: int) -> None:
        folder, generator = self.dir.samples, self.step.ema.module
        if done == 0:
            shown = census.sample(self.splits["train"])
            pictures.save(pictures.grid(shown, 10, "real images"), folder / "real.png")
        for i, name in enumerate(self.spec.names):
            picture = pictures.traversal(generator, self.spec, i)  # type: ignore[arg-type]
            pictures.save(picture, folder / f"step-{done:08d}-{name}.png")
            if self.tracking is not None:
                self.tracking.log_pictures(done, {f"samples/{name}": picture})
        records = metrics.read(self.dir.metrics)
        if records:
            metrics.draw_curves(records, self.spec, folder / "curves.png")

    def _evaluate(self, done: int) -> None:
        self._say("evaluating …")
        networks = Loaded(
            self.step.ema.module,  # type: ignore[arg-type]
            self.step.networks.discriminator.eval(),
            self.spec,
        )
        result = measure.evaluate(networks, self.splits)
        self._say(*measure.summary(result))
        written = measure.as_written(done, self.config.data.data, result)
        measure.write(self.dir, written, result["contingency"])
        self._say(f"pictures in {self.dir.samples}")

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
            f"{e['device']}, {e['threads']} threads, {e['precision']} ({e['precision_reason']})",
            f"{config.execution.step} step, {self.step.policy.name} ({e['step_reason']})"
            f", {e['memory_format']}",
            *self.splits["train"].notes,
        )

    def _say(self, *lines: str) -> None:
        if self.ranks.is_main:
            for line in lines:
                say(line)


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def main(args: list[str] | None = None) -> int:
    """`python -m fastinfogan.train`."""
    return guarded(lambda: train(parse(args)))


if __name__ == "__main__":
    raise SystemExit(main())
