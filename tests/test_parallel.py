"""What ranks do together, shown by two real gloo processes."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import command, launch, tensors, write_images

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
CPU = {"ACCELERATE_USE_CPU": "true"}

COLLECTIVES = """
import json, pathlib, sys
import torch
from fastinfogan import parallel
from fastinfogan.errors import UserError

ranks = parallel.start("no", cpu_only=True)
r = ranks.rank
said = {"world_size": ranks.world_size}
# a transposed tensor, and a second dtype
tensors = [torch.tensor([[1.0 + r, 2.0, 3.0 + 4 * r]]).T, torch.full((2, 2), r).double()]
ranks.average_(tensors)
said["average"] = [t.tolist() for t in tensors]
tensors = [torch.tensor([1.0 + r]), torch.arange(4.0).reshape(2, 2).T.add(r), torch.tensor(7 * r)]
ranks.broadcast_(tensors)
said["broadcast"] = [t.tolist() for t in tensors]
said["minimum"] = ranks.minimum(torch.tensor([5 - r, 3 + r])).tolist()
said["most_urgent"] = [ranks.most_urgent(15 * r), ranks.most_urgent(2 - r)]
said["on_main"] = ranks.on_main(lambda: f"by rank {ranks.rank}")

def fail(error):
    raise error

for error in (UserError("full"), KeyError("bug")):
    try:
        ranks.on_main(lambda: fail(error))
        said[type(error).__name__] = "went on"
    except Exception as caught:
        said[type(error).__name__] = [type(caught).__name__, getattr(caught, "said_by_main", None)]
ranks.close()
pathlib.Path(sys.argv[1], f"{r}.json").write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What each of two ranks got."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "collectives.py"
    script.write_text(COLLECTIVES)
    process = launch(*TORCHRUN, str(script), str(folder), env=CPU)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("world_size", 2),
        ("average", [[[1.5], [2.0], [5.0]], [[0.5, 0.5], [0.5, 0.5]]]),
        ("broadcast", [[1.0], [[0.0, 2.0], [1.0, 3.0]], 0]),
        ("minimum", [4, 3]),
        ("most_urgent", [15, 2]),
        ("on_main", "by rank 0"),
    ],
)
def test_every_rank_gets_the_same(
    said: list[dict[str, object]], what: str, expected: object
) -> None:
    assert [s[what] for s in said] == [expected, expected]


def test_what_fails_on_rank_0_fails_on_every_rank_and_is_printed_once(
    said: list[dict[str, object]],
) -> None:
    assert said[0]["UserError"] == ["UserError", False]
    assert said[1]["UserError"] == ["UserError", True]
    assert said[0]["KeyError"] == ["KeyError", None]
    assert said[1]["KeyError"] == ["UserError", True]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images.npz")


def train(data: Path, out: Path, *more: str) -> tuple[int, str, str]:
    process = launch(*TORCHRUN, "-m", "fastinfogan.train", *command(data, out, *more), env=CPU)
    said, errors = process.communicate(timeout=120)
    return process.returncode, said, errors


def test_two_ranks_resume_to_the_same_weights_and_moments(data: Path, tmp_path: Path) -> None:
    for out, steps in (("whole", "6"), ("parts", "3"), ("parts", "6")):
        code, _, errors = train(data, tmp_path / out, "--steps", steps)
        assert code == 0, errors
    whole, parts = (tensors(tmp_path / out, 6) for out in ("whole", "parts"))
    # BatchNorm's buffers and the metrics' sums are averaged at each save, so they may round
    exact = [name for name in whole if "running" not in name and "metrics" not in name]
    assert len(exact) > 60
    assert all(torch.equal(whole[name], parts[name]) for name in exact)
    for name in whole.keys() - set(exact):
        torch.testing.assert_close(whole[name], parts[name])


def test_two_ranks_differ_from_one_that_sees_half_as_much(data: Path, tmp_path: Path) -> None:
    """The second rank's images and latents take part: its gradients are averaged in."""
    code, _, errors = train(data, tmp_path / "two", "--steps", "1")
    assert code == 0, errors
    process = launch("-m", "fastinfogan.train", *command(data, tmp_path / "one", "--steps", "1"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    one, two = (tensors(tmp_path / out, 1) for out in ("one", "two"))
    moment = "training/adam_d.00.exp_avg"
    assert not torch.equal(one[moment], two[moment])


def test_a_signal_to_the_launcher_saves_on_two_ranks(data: Path, tmp_path: Path) -> None:
    options = ("--steps", "100000", "--checkpoint-every", "5")
    process = launch(
        *TORCHRUN, "-m", "fastinfogan.train", *command(data, tmp_path, *options), env=CPU
    )
    for _ in range(1200):
        if list(tmp_path.glob("checkpoints/step-*")):
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=120)
    match = re.search(r"SIGTERM: saved after update (\d+)", said)
    assert match is not None, said + errors
    assert tensors(tmp_path, int(match[1]))


POISON = """
import pathlib, sys
import torch
from fastinfogan import train
from fastinfogan.step import Step
import os

inner = Step.__call__

def poisoned(self, step, real):
    d, g = inner(self, step, real)
    bad = os.environ["RANK"] == "1" and step + 1 == 3
    return (d, g._replace(loss=g.loss * float("nan"))) if bad else (d, g)

Step.__call__ = poisoned
code = train.main(sys.argv[2:])
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(str(code))
"""


def test_a_non_finite_loss_on_one_rank_ends_both_with_3(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "poison.py"
    script.write_text(POISON)
    options = command(data, tmp_path / "run", "--steps", "8", "--log-every", "4")
    process = launch(*TORCHRUN, str(script), str(tmp_path), *options, env=CPU)
    _, errors = process.communicate(timeout=120)
    assert [(tmp_path / rank).read_text() for rank in ("0", "1")] == ["3", "3"], errors
    assert errors.count("non-finite g_loss in update 3") == 1
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
