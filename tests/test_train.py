from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.host_reads import HOST_READS
from helpers.runs import assert_same_run, command, records, tensors, write_images
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import fastinfogan
from fastinfogan import atomic, evaluate, train
from fastinfogan.networks.spectral import Spectral
from fastinfogan.runs import checkpoint, loop
from fastinfogan.sharing.card import save_run
from fastinfogan.training import metrics
from fastinfogan.training.step import DRecord, GRecord, Step


@pytest.fixture(autouse=True)
def _own_state() -> Iterator[None]:
    """Let each run in this process start as a process would."""
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images.npz")


def run(data: Path, out: Path, *more: str) -> int:
    AcceleratorState._reset_state(True)
    return train.main(command(data, out, *more))


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of an error: stderr has nothing else, least of all a traceback."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "images/s" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


# Resume


@pytest.mark.parametrize(
    ("precision", "log_every"),
    [
        ("bf16", "4"),  # inside an interval
        pytest.param("bf16", "5", marks=pytest.mark.slow),  # on the grid
        pytest.param("fp32", "4", marks=pytest.mark.slow),
        pytest.param("fp32", "5", marks=pytest.mark.slow),
    ],
)
def test_20_updates_equal_10_and_a_resume_and_10_bit_for_bit(
    data: Path, tmp_path: Path, precision: str, log_every: str
) -> None:
    options = ("--precision", precision, "--log-every", log_every)
    assert run(data, tmp_path / "whole", "--steps", "20", *options) == 0
    assert run(data, tmp_path / "parts", "--steps", "10", *options) == 0
    assert run(data, tmp_path / "parts", "--steps", "20", *options) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 20)


def test_labels_are_never_seen_in_training(tmp_path: Path) -> None:
    """The default recipe's weights are the same with labels, with wrong ones and without any."""
    write_images(tmp_path / "right.npz")
    with np.load(tmp_path / "right.npz") as held:
        images, labels = held["images"], held["labels"]
    np.savez(tmp_path / "wrong.npz", images=images, labels=np.roll(labels, 7) * 5)
    np.savez(tmp_path / "none.npz", images=images)
    for name in ("right", "wrong", "none"):
        assert run(tmp_path / f"{name}.npz", tmp_path / name, "--steps", "4") == 0
    for name in ("wrong", "none"):
        assert_same_run(tmp_path / "right", tmp_path / name, 4)
    reported = [
        json.loads((tmp_path / name / "eval.json").read_text()) for name in ("wrong", "none")
    ]
    assert [result["labels"] for result in reported] == [True, False]


@pytest.mark.slow
def test_another_seed_gives_another_run(data: Path, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        assert run(data, tmp_path / seed, "--steps", "2", "--seed", seed) == 0
    first, second = (tensors(tmp_path / seed, 2) for seed in ("0", "1"))
    name = "model/generator.fc1.weight"
    assert not torch.equal(first[name], second[name])


@pytest.mark.slow
@pytest.mark.parametrize("step", ["alternating", "shared"])
def test_a_run_with_spectral_norm_is_resumed_and_its_networks_are_found(
    data: Path, tmp_path: Path, step: str
) -> None:
    options = ("--spectral-norm", "--step", step)
    assert run(data, tmp_path / "whole", "--steps", "6", *options) == 0
    assert run(data, tmp_path / "parts", "--steps", "3", *options) == 0
    assert run(data, tmp_path / "parts", "--steps", "6", *options) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 6)
    generator, discriminator, _ = fastinfogan.load(tmp_path / "whole")
    assert not any(isinstance(m, Spectral) for m in generator.modules())
    assert any(isinstance(m, Spectral) for m in discriminator.modules())


@pytest.mark.parametrize("step", ["alternating", pytest.param("shared", marks=pytest.mark.slow)])
def test_a_run_whose_q_has_its_own_trunk_is_resumed_saved_and_loaded(
    data: Path, tmp_path: Path, step: str
) -> None:
    options = ("--q-trunk", "own", "--step", step)
    assert run(data, tmp_path / "whole", "--steps", "4", *options) == 0
    assert run(data, tmp_path / "parts", "--steps", "2", *options) == 0
    assert run(data, tmp_path / "parts", "--steps", "4", *options) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 4)
    save_run(tmp_path / "parts", tmp_path / "saved")
    for folder in (tmp_path / "parts", tmp_path / "saved"):
        _, discriminator, _ = fastinfogan.load(folder)
        assert discriminator.own_trunk


@pytest.mark.slow
def test_resume_from_a_path_goes_on_in_another_folder(data: Path, tmp_path: Path) -> None:
    whole, first, branch = tmp_path / "whole", tmp_path / "first", tmp_path / "branch"
    assert run(data, whole, "--steps", "8", "--log-every", "2") == 0
    assert run(data, first, "--steps", "4", "--log-every", "2") == 0
    for source in (first, first / "checkpoints" / "step-00000004"):
        options = ("--steps", "8", "--log-every", "2", "--resume", str(source))
        assert run(data, branch, *options) == 0
        assert_same_run(whole, branch, 8)
        shutil.rmtree(branch)
    assert not (first / "checkpoints" / "step-00000008").exists()


def test_a_truncated_newest_checkpoint_is_named_and_the_one_before_it_used(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    options = ("--log-every", "2", "--checkpoint-every", "2")
    assert run(data, whole, "--steps", "8", *options) == 0
    assert run(data, damaged, "--steps", "6", *options) == 0
    file = damaged / "checkpoints" / "step-00000006" / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    capsys.readouterr()
    assert run(data, damaged, "--steps", "8", *options) == 0
    output = [line for line in capsys.readouterr().out.splitlines() if "is damaged" in line]
    assert len(output) == 1
    assert "step-00000006" in output[0]
    assert "using step-00000004" in output[0]
    assert_same_run(whole, damaged, 8)


def test_a_finished_run_says_so_and_exits_0(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--steps", "2") == 0
    before = tensors(tmp_path, 2)
    capsys.readouterr()
    assert run(data, tmp_path, "--steps", "2") == 0
    assert "is finished: 2 of " in capsys.readouterr().out
    assert all(torch.equal(before[k], v) for k, v in tensors(tmp_path, 2).items())


@pytest.mark.slow
def test_a_run_killed_before_its_evaluation_is_evaluated_when_run_again(
    data: Path, tmp_path: Path
) -> None:
    assert run(data, tmp_path, "--steps", "2") == 0
    first = json.loads((tmp_path / "eval.json").read_text())
    (tmp_path / "eval.json").unlink()
    last = tmp_path / "samples" / "step-00000002-c1_categorical.png"
    last.unlink()
    assert run(data, tmp_path, "--steps", "2") == 0
    assert last.is_file()
    assert json.loads((tmp_path / "eval.json").read_text()) == first


def test_a_changed_option_that_alters_the_weights_is_refused_by_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--steps", "2") == 0
    capsys.readouterr()
    assert run(data, tmp_path, "--steps", "4", "--seed", "7", "--lr-d", "0.1") == 2
    line = last_line(capsys)
    assert "--seed 0 -> 7" in line
    assert "--lr-d 0.0005 -> 0.1" in line
    assert "--steps" not in line


def test_other_images_under_the_same_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "images.npz", n=120)
    assert run(data, tmp_path / "run", "--steps", "2") == 0
    write_images(data, n=140)
    capsys.readouterr()
    assert run(data, tmp_path / "run", "--steps", "4") == 2
    line = last_line(capsys)
    assert "(108 images), this run has data" in line
    assert "(126 images)" in line


@pytest.mark.slow
def test_precision_may_change_its_word_but_not_its_meaning(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--steps", "2", "--precision", "fp32") == 0
    capsys.readouterr()
    assert run(data, tmp_path, "--steps", "4", "--precision", "bf16") == 2
    assert "precision fp32, this run has precision bf16" in last_line(capsys)
    assert run(data, tmp_path, "--steps", "4", "--precision", "fp32") == 0


@pytest.mark.slow
def test_the_data_may_move_as_long_as_it_is_the_same(data: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "run", tmp_path / "moved.npz"
    assert run(data, out, "--steps", "2") == 0
    shutil.copy(data, moved)
    assert run(moved, out, "--steps", "4") == 0


@pytest.mark.slow
def test_an_evaluation_of_an_earlier_step_does_not_count(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--steps", "2") == 0
    stale = (tmp_path / "eval.json").read_text()
    assert run(data, tmp_path, "--steps", "4") == 0
    (tmp_path / "eval.json").write_text(stale)  # as if the second evaluation was interrupted
    assert run(data, tmp_path, "--steps", "4") == 0
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == 4


@pytest.mark.slow
def test_the_command_that_began_a_run_from_a_path_goes_on_with_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, branch = tmp_path / "first", tmp_path / "branch"
    assert run(data, first, "--steps", "2") == 0
    for steps in ("4", "6"):
        assert run(data, branch, "--steps", steps, "--resume", str(first)) == 0
    assert tensors(branch, 6)
    capsys.readouterr()
    assert run(data, tmp_path / "other", "--steps", "2", "--resume", str(first)) == 2
    assert "has 2 updates already; raise --steps" in last_line(capsys)


def test_a_resume_behind_a_damaged_checkpoint_never_deletes_the_good_one(
    data: Path, tmp_path: Path
) -> None:
    assert run(data, tmp_path, "--steps", "4", "--checkpoint-every", "2") == 0
    os.truncate(tmp_path / "checkpoints" / "step-00000004" / "training.safetensors", 9)
    assert run(data, tmp_path, "--steps", "3", "--keep", "1") == 0
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert fastinfogan.load(tmp_path)


def test_leftovers_of_a_killed_save_are_cleared(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--steps", "2") == 0
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / ".step-00000007.tmp").mkdir()
    (checkpoints / "step-00000002").rename(checkpoints / ".step-00000002.old")
    assert run(data, tmp_path, "--steps", "2") == 0
    assert [p.name for p in checkpoints.iterdir()] == ["step-00000002"]


def test_steps_intervals_keep_and_threads_may_change(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--steps", "2") == 0
    more = ("--log-every", "1", "--sample-every", "3", "--checkpoint-every", "1", "--keep", "2")
    assert run(data, tmp_path, "--steps", "5", *more) == 0
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000005"]
    assert [r["step"] for r in records(tmp_path)] == [3, 4, 5]


def test_never_refuses_a_folder_that_holds_a_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--steps", "2", "--resume", "never") == 0
    capsys.readouterr()
    assert run(data, tmp_path, "--steps", "4", "--resume", "never") == 2
    assert "holds a run already" in last_line(capsys)


# What a run leaves


def test_a_run_leaves_what_the_contract_lists(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--steps", "6", "--log-every", "4", "--sample-every", "3") == 0
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["world_size"] == 1
    assert environment["threads"] == 1
    assert environment["packages"]["torch"] == torch.__version__
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["images"]) for r in lines] == [(4, 64), (6, 96)]
    assert all(r["images_per_second"] > 0 for r in lines)
    for record in lines:
        assert (
            record["nll"].keys() == record["information"].keys() == {"c1_categorical", "c2_uniform"}
        )
    pictures = {p.name for p in (tmp_path / "samples").iterdir()}
    grids = {f"step-{s:08d}-{c}.png" for s in (0, 3, 6) for c in ("c1_categorical", "c2_uniform")}
    assert pictures == grids | {"real.png", "curves.png", "contingency.png"}
    evaluation = json.loads((tmp_path / "eval.json").read_text())
    assert evaluation["step"] == 6
    assert evaluation["code_scored"] == "c1_categorical"
    assert evaluation["images"]["codes"] == 12
    files = {p.suffix for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()}
    assert files == {".json", ".safetensors"}


def test_evaluate_measures_another_set_of_the_same_size_and_refuses_one_that_is_not(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(data, out, "--steps", "2") == 0
    other = write_images(tmp_path / "other.npz", n=200)
    capsys.readouterr()
    assert evaluate.main([str(out), "--data", f"npz:{other}"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output == json.loads((out / "eval.json").read_text())
    assert output["data"] == f"npz:{other}"
    assert output["images"]["codes"] == 20
    large = write_images(tmp_path / "large.npz", size=12)
    assert evaluate.main([str(out), "--data", f"npz:{large}"]) == 2
    line = last_line(capsys)
    assert "images are 12x12, expected 8x8" in line
    assert "--image-size" not in line  # evaluate has no such option
    assert evaluate.main([str(out), "--seed", "-1"]) == 2
    assert "--seed: expected at least 0" in last_line(capsys)


def test_a_damaged_checkpoint_does_not_spoil_what_evaluate_prints(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--steps", "4", "--checkpoint-every", "2") == 0
    os.truncate(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors", 9)
    capsys.readouterr()
    assert evaluate.main([str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["step"] == 2
    assert "step-00000004" in output.err


def test_load_gives_the_averaged_generator_the_discriminator_and_the_spec(
    data: Path, tmp_path: Path
) -> None:
    assert run(data, tmp_path, "--steps", "3", "--ema", "0.5") == 0
    generator, discriminator, spec = fastinfogan.load(tmp_path)
    saved = tensors(tmp_path, 3)
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, saved[f"model/generator_ema.{name}"])
    for name, tensor in discriminator.state_dict().items():
        assert torch.equal(tensor, saved[f"model/discriminator.{name}"])
    weight = "fc1.weight"
    assert not torch.equal(
        saved[f"model/generator.{weight}"], saved[f"model/generator_ema.{weight}"]
    )
    batch = spec.sample(5, seed=0)
    logit, q = discriminator(generator(batch.input))
    assert logit.shape == (5,)
    assert q.shape == (5, spec.q_dim)


def test_own_colour_images_from_a_folder_and_a_code_of_every_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        path = tmp_path / "images" / ("cats", "dogs")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 14 + i % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    out = tmp_path / "run"
    options = {
        "--data": f"folder:{tmp_path / 'images'}",
        "--image-size": "12",
        "--channels": "3",
        "--codes": "cat2,bernoulli,gaussian2*0.5,uniform2:learned*0.1",
        "--batch-size": "8",
        "--steps": "4",
        "--out": str(out),
    }
    assert train.main([word for pair in options.items() for word in pair]) == 0
    evaluation = json.loads((out / "eval.json").read_text())
    assert list(evaluation["information"]) == [
        *("c1_categorical", "c2_bernoulli", "c3_gaussian", "c4_uniform")
    ]
    assert evaluation["images"]["codes"] == 3
    with Image.open(out / "samples" / "step-00000004-c4_uniform.png") as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100  # in colour
    generator, _, spec = fastinfogan.load(out)
    assert generator(spec.sample(2, seed=0).input).shape == (2, 3, 12, 12)


def test_training_teaches_q_the_code(data: Path, tmp_path: Path) -> None:
    at_once = ("--info-start", "0", "--info-ramp", "0", "--real-info", "0", "--follow", "0")
    options = ("--steps", "60", "--log-every", "5", "--precision", "fp32", "--lr-d", "2e-4")
    assert run(data, tmp_path, *options, *at_once) == 0
    bound = [r["information"]["c1_categorical"] for r in records(tmp_path)]
    assert bound[-1] > 0.6 > 0.3 > bound[0]  # of log 3 = 1.10 nats


# The loop


def test_nothing_is_read_back_to_the_host_between_log_intervals(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    allowed = [True]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in HOST_READS and not allowed[0]:
                reads.append(str(func))
            return func(*args, **(kwargs or {}))

    def at_intervals(name: str) -> None:
        inner = getattr(loop.Training, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            allowed[0] = True
            try:
                return inner(*args, **kwargs)
            finally:
                allowed[0] = False

        monkeypatch.setattr(loop.Training, name, wrapped)

    for name in ("_log", "save", "_pictures", "_evaluate"):
        at_intervals(name)
    with Watch():
        assert run(data, tmp_path, "--steps", "8", "--log-every", "4") == 0
    assert not allowed[0]
    assert reads == []


@pytest.mark.slow
def test_the_stopwatch_is_read_at_log_intervals_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    inner = metrics.Stopwatch._now

    def counted(self: metrics.Stopwatch) -> float:
        looks.append(1)
        return inner(self)

    monkeypatch.setattr(metrics.Stopwatch, "_now", counted)
    assert run(data, tmp_path, "--steps", "40", "--log-every", "20") == 0
    # the start; two around the first record; three around the last record and save
    assert len(looks) <= 7


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("when", "at"), [(Step, "__call__"), (loop.Training, "_pictures")])
def test_a_signal_in_the_last_update_or_its_pictures_is_not_lost(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    when: Any,
    at: str,
) -> None:
    inner = getattr(when, at)

    def signalled(self: Any, step: int, *more: Any) -> Any:
        if step == (3 if when is Step else 4):
            os.kill(os.getpid(), number)
        return inner(self, step, *more)

    monkeypatch.setattr(when, at, signalled)
    assert run(data, tmp_path, "--steps", "4") == 128 + number
    assert tensors(tmp_path, 4)
    assert not (tmp_path / "eval.json").exists()


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (lambda d, g: (d._replace(loss=d.loss * float("inf")), g), "d_loss"),
        (lambda d, g: (d, g._replace(nll=torch.tensor([1.0, float("nan")]))), "c2_uniform"),
    ],
    ids=["loss", "code"],
)
def test_a_non_finite_loss_ends_the_run_with_its_step_and_name_and_keeps_the_last_checkpoint(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bad: Any,
    named: str,
) -> None:
    inner = Step.__call__

    def poisoned(self: Step, step: int, real: torch.Tensor) -> tuple[DRecord, GRecord]:
        d, g = inner(self, step, real)
        return bad(d, g) if step + 1 >= 6 else (d, g)

    monkeypatch.setattr(Step, "__call__", poisoned)
    options = ("--log-every", "8", "--checkpoint-every", "4")
    assert run(data, tmp_path, "--steps", "12", *options) == 3
    line = last_line(capsys)
    assert f"non-finite {'' if named == 'd_loss' else 'information of '}{named} in update 6" in line
    assert "step-00000004 is the last good checkpoint" in line
    assert [p.name for p in checkpoint.list_newest_first(tmp_path / "checkpoints")] == [
        "step-00000004"
    ]


def test_weights_that_are_not_finite_are_not_saved(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--steps", "4", "--checkpoint-every", "1", "--lr-g", "1e38") == 3
    assert "non-finite" in last_line(capsys)
    for path in checkpoint.list_newest_first(tmp_path / "checkpoints"):
        measured = checkpoint.load(path)
        assert all(t.isfinite().all() for t in measured.tensors["model"].values())


# Bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--data", "mnits"), "expected mnist, faces-3d"),
        (("--data", "npz:nowhere.npz"), "no such file"),
        (("--image-size", "12"), "images are 8x8 with 1 channels, and such sets are not resized"),
        (("--channels", "3"), "leave out --channels 3"),
        (("--batch-size", "109"), "108 training images are fewer than one global batch of 109"),
        (("--batch-size", "1"), "--batch-size: expected at least 2, got 1"),
        (("--steps", "0"), "--steps: expected at least 1"),
        (("--codes", "cat1"), "n ≥ 2"),
        (("--codes", "dog4"), "'dog4' is not a code"),
        (("--image-size", "30"), "leave out --image-size 30"),
        (("--precision", "fp16"), "fp16 is for GPUs"),
        (("--lr-d", "nan"), "--lr-d"),
        (("--resume", "nowhere"), "neither a run nor a checkpoint"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    says: str,
) -> None:
    assert run(data, tmp_path / "run", *options) == 2
    assert says in last_line(capsys)


def test_a_backend_that_cannot_run_here_is_refused_before_the_first_update(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = pytest.importorskip("fastinfogan_kernels.launch", reason="triton is not installed")
    monkeypatch.setattr(launch, "INTERPRETED", False)
    assert run(data, tmp_path / "run", "--backend", "triton") == 2
    assert "--backend triton: the kernel runs on CUDA and ROCm" in last_line(capsys)
    assert not (tmp_path / "run").exists()


def test_the_kernel_trains_as_the_reference_does(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    options = ("--steps", "3", "--log-every", "1", "--precision", "fp32")
    for backend in ("triton", "reference"):
        assert run(data, tmp_path / backend, *options, "--backend", backend) == 0
    both = (records(tmp_path / backend) for backend in ("triton", "reference"))
    for i, (ours, theirs) in enumerate(zip(*both, strict=True)):
        # fp32 at first; Adam's first updates then make ±lr of gradients that are but rounding
        near = partial(pytest.approx, rel=1e-5 if i == 0 else 0.05)
        assert ours["d_loss"] == near(theirs["d_loss"])
        assert ours["g_loss"] == near(theirs["g_loss"])
        assert ours["nll"] == near(theirs["nll"])


@pytest.mark.parametrize("argument", ["mnits", "--stepz=3", "--steps=many"])
def test_arguments_that_do_not_parse_exit_with_2(argument: str) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main([argument])
    assert caught.value.code == 2


def test_a_folder_that_cannot_be_written_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run(data, tmp_path / "file" / "run") == 2
    assert "cannot write" in last_line(capsys)


def test_too_little_space_is_reported_before_training(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    assert run(data, tmp_path) == 2
    assert "0 MB free, one checkpoint takes" in last_line(capsys)


def test_a_disk_that_fills_up_is_one_line_and_keeps_the_last_checkpoint(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner = atomic.write_and_sync

    def full(path: Path, content: bytes) -> None:
        if "step-00000004" in str(path):
            raise OSError(28, "No space left on device")
        inner(path, content)

    monkeypatch.setattr(atomic, "write_and_sync", full)
    assert run(data, tmp_path, "--steps", "6", "--checkpoint-every", "2") == 2
    assert "No space left on device" in last_line(capsys)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_second_writer_is_refused(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fastinfogan.runs.folder import RunDir

    tmp_path.mkdir(exist_ok=True)
    monkeypatch.setattr("fastinfogan.runs.folder.LOCK_SECONDS", 0.1)
    with RunDir(tmp_path).lock():
        assert run(data, tmp_path) == 2
    assert "in use by another run" in last_line(capsys)
    assert run(data, tmp_path, "--steps", "2") == 0


@pytest.mark.parametrize("which", ["ema", "d"])
def test_weights_that_are_not_finite_are_never_saved_though_the_losses_are(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch, which: str
) -> None:
    update = Step.__call__

    def poisoned(self: Step, step: int, real: torch.Tensor) -> Any:
        record = update(self, step, real)
        if step + 1 == 6:  # the last update: no later loss can show it
            weights = self.ema.flat.value if which == "ema" else self.d.flat.value
            weights.detach()[3] = float("inf")
        return record

    monkeypatch.setattr(Step, "__call__", poisoned)
    assert run(data, tmp_path, "--steps", "6", "--checkpoint-every", "2") == 3
    assert "non-finite weights after update 6" in last_line(capsys)
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {"step-00000002", "step-00000004"}
