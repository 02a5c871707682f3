"""The comparison of two checkouts can fail: on one bit, a missing tensor, a loss, a failed run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").is_file())
NAME = "discriminator.weight"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def checkpoint(folder: Path, weight: Tensor, **more: Tensor) -> Path:
    """Write a checkpoint of that weight."""
    folder.mkdir(parents=True)
    save_file({NAME: weight, "generator.bias": torch.ones(2)}, folder / "model.safetensors")
    moments = {"adam_d.step": torch.tensor(3.0), "metrics.sums": torch.rand(3), **more}
    save_file(moments, folder / "training.safetensors")
    return folder


def differences(tmp_path: Path, old: Tensor, new: Tensor) -> list[str]:
    """Compare checkpoints of two weights."""
    import identical

    result = identical.compare_checkpoints(
        checkpoint(tmp_path / "old", old), checkpoint(tmp_path / "new", new)
    )
    assert result.tensors == 3
    return result.differences


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_equal_tensors_of_any_kind_are_equal_and_the_sums_of_the_log_are_left_out(tmp_path, dtype):
    weight = torch.tensor([[0, 1, 0], [1, 1, 0]]).to(dtype)
    assert differences(tmp_path, weight, weight.clone()) == []


def test_the_last_bit_of_one_element_is_seen_and_named(tmp_path):
    weight = torch.ones(2, 3)
    other = weight.clone()
    other[1, 2] = torch.nextafter(other[1, 2], torch.tensor(2.0))
    (line,) = differences(tmp_path, weight, other)
    assert line == (
        f"model.safetensors: {NAME}: 1 of 6 elements differ, the largest difference is 1.19e-07"
    )


def test_the_signs_of_zero_differ(tmp_path):
    (line,) = differences(tmp_path, torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    assert "1 of 2 elements differ, the largest difference is 0" in line


def test_nan_equals_nan_and_no_number(tmp_path):
    weight = torch.tensor([float("nan"), float("inf"), 1.0])
    assert differences(tmp_path / "a", weight, weight.clone()) == []
    (line,) = differences(tmp_path / "b", weight, torch.tensor([0.0, float("inf"), 1.0]))
    assert "1 of 3 elements differ, the largest difference is nan" in line


@pytest.mark.parametrize("other", [torch.ones(3, dtype=torch.float64), torch.ones(3, 1)])
def test_dtype_and_shape_count(tmp_path, other):
    import identical

    reported = identical.difference(torch.ones(3), other)
    assert reported is not None
    assert reported.startswith("float32 [3] in the old checkpoint, float")


def test_a_tensor_or_a_file_that_one_side_lacks_is_named(tmp_path):
    import identical

    old = checkpoint(tmp_path / "old", torch.ones(2))
    new = checkpoint(tmp_path / "new", torch.ones(2), **{"adam_g.step": torch.zeros(())})
    line = "training.safetensors: adam_g.step: missing in the {} checkpoint"
    assert identical.compare_checkpoints(old, new).differences == [line.format("old")]
    assert identical.compare_checkpoints(new, old).differences == [line.format("new")]
    (new / "model.safetensors").unlink()
    first = identical.compare_checkpoints(old, new).differences[0]
    assert first == "model.safetensors: missing in the new checkpoint"


def test_checkpoints_without_the_optimizers_do_not_pass(tmp_path):
    import identical

    folder = checkpoint(tmp_path / "old", torch.ones(2))
    save_file({"metrics.sums": torch.ones(1)}, folder / "training.safetensors")
    (line,) = identical.compare_checkpoints(folder, folder).differences
    assert "expected tensors whose names begin with 'adam_', got none" in line


# Does what the command line says with a checkpoint that lies in the checkout.
TRAINER = """\
import json, shutil, sys
from pathlib import Path

here, args = Path(__file__).parent, sys.argv
out, step = Path(args[args.index("--out") + 1]), int(args[args.index("--steps") + 1])
shutil.copytree(here / "checkpoint", out / "checkpoints" / f"step-{step:08d}")
(out / "environment.json").write_text(json.dumps({"world_size": 1}))
losses = {"d_loss": %r, "g_loss": 0.5, "nll": {"c1": float("nan")}}
(out / "metrics.jsonl").write_text(json.dumps({"step": step, **losses}) + "\\n")
"""


def checkout(folder: Path, weight: Tensor, trainer: str = TRAINER % 0.1) -> Path:
    """Write a checkout whose runs all end with that weight."""
    package = folder / "fastinfogan"
    checkpoint(package / "checkpoint", weight)
    (folder / "pyproject.toml").touch()
    (package / "__init__.py").touch()
    (package / "train.py").write_text(trainer)
    (folder / "kernels" / "fastinfogan_kernels").mkdir(parents=True)
    (folder / "kernels" / "fastinfogan_kernels" / "__init__.py").touch()
    return folder


def compare(capfd, *args: object) -> tuple[int, list[str]]:
    """Run the command; returns its exit code and its rows."""
    import identical

    code = identical.main([str(arg) for arg in args])
    return code, capfd.readouterr().out.splitlines()[1:]


def test_a_row_per_case_says_equal_and_nothing_is_left_in_the_checkouts(tmp_path, capfd):
    old, new = (checkout(tmp_path / side, torch.ones(2)) for side in ("old", "new"))
    before = sorted(tmp_path.rglob("*"))
    code, rows = compare(capfd, old, new, "--cases", "hinge", "mnist-resumed")
    assert code == 0
    assert [row.split()[:3] for row in rows[:2]] == [
        ["hinge", "equal", "3"],
        ["mnist-resumed", "equal", "3"],
    ]
    assert rows[2].startswith("2 cases, 0 differ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_weight_that_differs_is_named_with_its_case_and_file(tmp_path, capfd):
    old = checkout(tmp_path / "old", torch.ones(2))
    new = checkout(tmp_path / "new", torch.tensor([1.0, 1.5]))
    code, rows = compare(capfd, old, new, "--cases", "hinge")
    assert code == 1
    assert rows[0].split()[:3] == ["hinge", "DIFFERS", "3"]
    assert rows[1].startswith(f"  hinge: model.safetensors: {NAME}: 1 of 2 elements differ")


def test_a_loss_of_the_log_that_differs_is_named(tmp_path, capfd):
    old = checkout(tmp_path / "old", torch.ones(2))
    new = checkout(tmp_path / "new", torch.ones(2), TRAINER % 0.10000000000000002)
    code, rows = compare(capfd, old, new, "--cases", "hinge")
    assert code == 1
    assert rows[1] == "  hinge: metrics.jsonl: d_loss: old 0.1, new 0.10000000000000002"


@pytest.mark.parametrize(
    ("trainer", "output"),
    [
        ('raise SystemExit("error: --r1: not known")', "exit code 1; its last errors:"),
        ("", "ended without a checkpoint and a record of update 8"),
        (TRAINER.replace('size": 1', 'size": 2') % 0.1, "expected 1 ranks in environment.json"),
    ],
)
def test_a_run_that_fails_counts_as_differing(tmp_path, capfd, trainer, output):
    old = checkout(tmp_path / "old", torch.ones(2))
    new = checkout(tmp_path / "new", torch.ones(2), trainer)
    code, rows = compare(capfd, old, new, "--cases", "penalties")
    assert code == 1
    assert rows[0].split()[:3] == ["penalties", "DIFFERS", "0"]
    assert rows[1].startswith(f"  penalties: the new checkout's run: {output}")
    if "--r1" in trainer:
        assert rows[2].strip() == "error: --r1: not known"


def test_a_package_from_elsewhere_is_refused(tmp_path, monkeypatch):
    import identical

    monkeypatch.delenv("PYTHONPATH", raising=False)

    own = checkout(tmp_path / "own", torch.ones(2))
    other = checkout(tmp_path / "other", torch.ones(2))
    launcher = tmp_path / "launcher.py"
    launcher.write_text(identical.LAUNCHER)
    shutil.rmtree(own / "kernels")
    for env, name in ((other, "fastinfogan"), (own, "fastinfogan_kernels")):
        environment = identical.environment(env)
        environment["PYTHONPATH"] += f":{other / 'kernels'}"
        command = [sys.executable, launcher, own]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 1
        assert f"expected the package {name} of {own}, got {other}" in ended.stderr


@pytest.mark.parametrize(
    ("args", "output"),
    [
        (("{}", "{}", "--cases", "hinge", "nonsense"), "--list, got 'nonsense'"),
        (("{}", "{}/kernels"), "expected a checkout with pyproject.toml and fastinfogan/, got"),
        (("{}",), "expected the folders of two checkouts"),
        (("{}", "{}", "--updates", "1"), "--updates: expected at least 2, got 1"),
        (("{}", "{}", "--updates", "x"), "invalid int value: 'x'"),
    ],
)
def test_bad_arguments_exit_with_2_in_one_line(capsys, args, output):
    import identical

    assert identical.main([arg.format(ROOT) for arg in args]) == 2
    reported = capsys.readouterr()
    assert reported.out == ""
    (line,) = reported.err.splitlines()
    assert line.startswith("error: ")
    assert output in line


def test_the_cases_are_listed(capsys):
    import identical

    assert identical.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(identical.CASES)


def test_every_case_is_a_run_that_this_checkout_takes(tmp_path):
    import identical

    from fastinfogan.cli import parse
    from fastinfogan.config import check

    for case in identical.CASES.values():
        config = parse(identical.arguments(case, "npz:images.npz", tmp_path, identical.UPDATES))
        check(config)
        assert config.steps == identical.UPDATES


def test_the_images_can_be_read(tmp_path):
    import identical
    import numpy as np

    for name, images in identical.IMAGE_SETS.items():
        kind, path = identical.data_option(name, tmp_path).split(":")
        result = np.load(path)
        result = result["images"] if kind == "npz" else result
        assert result.shape == (identical.IMAGES, images.side, images.side, images.channels)
        assert result.dtype == np.uint8
        assert len(np.unique(result, axis=0)) == identical.IMAGES


@pytest.mark.slow
def test_this_checkout_trains_as_itself_and_not_as_one_with_other_constants(tmp_path):
    """The other constants: every 0.999, of which one is the default of Adam's β2."""

    def run(new: Path) -> tuple[int, str]:
        script = ROOT / "benchmarks" / "identical.py"
        case = ("--cases", "smoothing", "--updates", "3")
        command = [sys.executable, str(script), str(ROOT), str(new), *case]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
        return ended.returncode, ended.stdout + ended.stderr

    code, output = run(ROOT)
    assert code == 0, output

    changed = tmp_path / "changed"
    for folder in ("fastinfogan", "kernels"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, changed / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", changed)
    result = 0
    for path in (changed / "fastinfogan").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        result += text.count("0.999")
        path.write_text(text.replace("0.999", "0.998"), encoding="utf-8")
    assert result
    code, output = run(changed)
    assert code == 1, output
    assert re.search(r"smoothing: \w+\.safetensors: [\w.]+: \d+ of \d+ elements differ", output), (
        output
    )
