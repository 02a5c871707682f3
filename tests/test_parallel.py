"""Ranks together, in two real gloo processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.runs import command, free_port, launch, records, tensors, write_images

import fastinfogan
from fastinfogan import parallel
from fastinfogan.errors import LostRank, UserError
from fastinfogan.parallel import Ranks, StopSignal

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
CPU = {"ACCELERATE_USE_CPU": "true"}


def start_ranks(*options: list[str], script: Path | None = None) -> list[subprocess.Popen[str]]:
    """Start a rank for each list of options, of training or a script, without a launcher.

    A launcher takes its time, and would itself end the ranks that are left.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common = {"WORLD_SIZE": str(len(options)), "OMP_NUM_THREADS": "1", **address}
    what = ("-m", "fastinfogan.train") if script is None else (str(script),)
    return [
        launch(*what, *mine, env={**CPU, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, mine in enumerate(options)
    ]


def ends(ranks: list[subprocess.Popen[str]], timeout: float) -> list[tuple[int, str]]:
    """Return (exit code, stderr) of each, within `timeout` seconds."""
    try:
        errors = [rank.communicate(timeout=timeout)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, text) for rank, text in zip(ranks, errors, strict=True)]


COLLECTIVES = """
import json, pathlib, sys
import torch
from fastinfogan import parallel
from fastinfogan.errors import UserError

ranks = parallel.start("no", cpu_only=True)
r = ranks.rank
output = {"world_size": ranks.world_size}
# a transposed tensor, and a second dtype
tensors = [torch.tensor([[1.0 + r, 2.0, 3.0 + 4 * r]]).T, torch.full((2, 2), r).double()]
ranks.average_(tensors)
output["average"] = [t.tolist() for t in tensors]
# an average under way, with work at the same time
draw = torch.Generator().manual_seed(r)
flat, factor = torch.randn(100_000, generator=draw), torch.randn(100, 100, generator=draw)
[alone] = whole = [flat.clone()]
ranks.average_(whole)
pending = ranks.start_average(flat)
product = factor @ factor
pending.wait()
pending.wait()
output["start_average"] = [torch.equal(flat, alone), torch.equal(product, factor @ factor)]
tensors = [torch.tensor([1.0 + r]), torch.arange(4.0).reshape(2, 2).T.add(r), torch.tensor(7 * r)]
ranks.broadcast_(tensors)
output["broadcast"] = [t.tolist() for t in tensors]
output["minimum"] = ranks.minimum(torch.tensor([5 - r, 3 + r])).tolist()
output["first_failure"] = [ranks.first_failure(f"no memory on {r}" * r), ranks.first_failure("")]
output["most_urgent"] = [ranks.most_urgent(15 * r), ranks.most_urgent(2 - r)]
output["on_main"] = ranks.on_main(lambda: f"by rank {ranks.rank}")

def fail(error):
    raise error

for error in (UserError("full"), KeyError("bug")):
    try:
        ranks.on_main(lambda: fail(error))
        output[type(error).__name__] = "went on"
    except Exception as caught:
        printed = getattr(caught, "said_by_main", None)
        output[type(error).__name__] = [type(caught).__name__, printed]
for name, facts in {
    "agree": {"steps": 3}, "agree on the path": {"steps": 3, "path": r}, "agree too": {"lr": 1.0}
}.items():
    try:
        output[name] = ranks.agree(facts)
    except UserError as caught:
        output[name] = [str(caught), caught.said_by_main]
output["on_all"] = ranks.on_all(lambda: r)
for bad in ((1,), (0, 1)):
    try:
        ranks.on_all(lambda: fail(UserError(f"no file on {r}")) if r in bad else None)
    except UserError as caught:
        output[f"on_all but {bad}"] = [str(caught), caught.said_by_main]
ranks.close()
pathlib.Path(sys.argv[1], f"{r}.json").write_text(json.dumps(output))
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Return what each of two ranks got."""
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
        ("start_average", [True, True]),
        ("broadcast", [[1.0], [[0.0, 2.0], [1.0, 3.0]], 0]),
        ("minimum", [4, 3]),
        ("first_failure", ["no memory on 1", ""]),
        ("most_urgent", [15, 2]),
        ("on_main", "by rank 0"),
        ("agree", None),
        ("agree too", None),
    ],
)
@pytest.mark.slow
def test_every_rank_gets_the_same(
    output: list[dict[str, object]], what: str, expected: object
) -> None:
    assert [s[what] for s in output] == [expected, expected]


def test_a_failure_on_rank_0_fails_on_every_rank_and_is_printed_once(
    output: list[dict[str, object]],
) -> None:
    assert output[0]["UserError"] == ["UserError", False]
    assert output[1]["UserError"] == ["UserError", True]
    assert output[0]["KeyError"] == ["KeyError", None]
    assert output[1]["KeyError"] == ["UserError", True]


def test_ranks_that_disagree_end_with_the_name_and_both_values_printed_once(
    output: list[dict[str, object]],
) -> None:
    line = "rank 1 has path 1, rank 0 has path 0; start every rank with the same"
    assert [s["agree on the path"] for s in output] == [[line, False], [line, True]]


def test_a_failure_on_any_rank_fails_on_every_rank_and_is_printed_once(
    output: list[dict[str, object]],
) -> None:
    assert [s["on_all"] for s in output] == [0, 1]
    expected = [["no file on 1", True], ["no file on 1", False]]
    assert [s["on_all but (1,)"] for s in output] == expected
    expected = [["no file on 0", False], ["no file on 0", True]]
    assert [s["on_all but (0, 1)"] for s in output] == expected


def test_one_rank_is_its_own_average(cpu_ranks: Callable[..., Ranks]) -> None:
    flat = torch.tensor([1.0, 2.0])
    cpu_ranks().start_average(flat).wait()
    assert flat.tolist() == [1.0, 2.0]


def test_two_ranks_take_rank_0_s_values_in_their_own_memory_format(
    cpu_ranks: Callable[..., Ranks], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = cpu_ranks()
    ranks.world_size = 2
    sent: list[tuple[bool, int]] = []

    def broadcast(tensor: torch.Tensor, src: int) -> None:
        sent.append((tensor.is_contiguous(), src))
        tensor.add_(1)

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    values = torch.arange(6.0).view(2, 3).t()
    ranks.broadcast_([values])
    assert sent == [(True, 0)]
    assert values.stride() == (1, 3)
    assert values.tolist() == [[1, 4], [2, 5], [3, 6]]


EQUIVALENCE = """
import pathlib, sys
import torch
from torch import nn
from fastinfogan import data, parallel
from fastinfogan.latents import LatentSpec, parse_codes
from fastinfogan.networks import BatchNorm, initialise, mnist_pair
from fastinfogan.philox import Stream
from fastinfogan.training.step import Networks, Objective, d_grads, g_grads

STEPS, B = 10, 6
spec = LatentSpec(4, parse_codes("cat3,uniform"))
ranks = parallel.start("no", cpu_only=True)
images = torch.randint(256, (60, 8, 8, 1), dtype=torch.uint8,
                       generator=torch.Generator().manual_seed(1))

class Plain(nn.Module):
    def forward(self, x, stats=None):
        return x

def train(batch, rank, world_size, average):
    networks = Networks(*mnist_pair(spec.input_dim, spec.q_dim, 8, 1))
    for network in networks:
        initialise(network, torch.Generator().manual_seed(0))
        for name, child in list(network.named_children()):
            if isinstance(child, BatchNorm):
                setattr(network, name, Plain())
        network.double()
    objective = Objective(spec, torch.ones(2, dtype=torch.float64), "openai")
    d_params, g_params = networks.split("openai")
    d_adam, g_adam = torch.optim.Adam(d_params, 1e-3), torch.optim.Adam(g_params, 1e-3)
    batches = data.BatchSampler(images, batch_size=batch, seed=0, rank=rank, world_size=world_size)

    def latents(step, stream):
        drawn = spec.sample(batch, seed=0, step=step, stream=stream, first_row=rank * batch)
        return drawn._replace(input=drawn.input.double(), continuous=drawn.continuous.double())

    def update(adam, params, grads):
        flat = torch.cat([g.reshape(-1) for g in grads])
        average(flat)
        for p, g in zip(params, flat.split([p.numel() for p in params])):
            p.grad = g.view(p.shape)
        adam.step()

    for step in range(STEPS):
        real = data.to_range(batches(step), (0.0, 1.0)).double()
        drawn = latents(step, Stream.D_LATENTS)
        update(d_adam, d_params, d_grads(networks, objective, d_params, real, drawn)[0])
        drawn = latents(step, Stream.G_LATENTS)
        update(g_adam, g_params, g_grads(networks, objective, g_params, drawn)[0])
    return torch.cat([p.detach().reshape(-1) for p in (*d_params, *g_params)])

two = train(B, ranks.rank, 2, lambda flat: ranks.start_average(flat).wait())
one = train(2 * B, 0, 1, lambda flat: None)
half = train(B, ranks.rank, 2, lambda flat: None)
differences = [float((a - b).abs().max()) for a, b in ((two, one), (half, one))]
ranks.close()
pathlib.Path(sys.argv[1], str(ranks.rank)).write_text(" ".join(map(str, differences)))
"""


def test_two_ranks_of_b_are_one_rank_of_2b_in_fp64_without_batchnorm(tmp_path: Path) -> None:
    script = tmp_path / "equivalence.py"
    script.write_text(EQUIVALENCE)
    for code, errors in ends(start_ranks([str(tmp_path)], [str(tmp_path)], script=script), 60):
        assert code == 0, errors
    for rank in ("0", "1"):
        averaged, alone = map(float, (tmp_path / rank).read_text().split())
        assert averaged < 1e-12
        assert alone > 1e-4  # without the average the ranks go their own ways


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images.npz")


def train(data: Path, out: Path, *more: str) -> tuple[int, str, str]:
    process = launch(*TORCHRUN, "-m", "fastinfogan.train", *command(data, out, *more), env=CPU)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_ranks_begin_the_game_together_and_resume_on_either_side(
    data: Path, tmp_path: Path
) -> None:
    options = ("--gan-start", "3", "--log-every", "2", "--checkpoint-every", "2", "--keep", "9")
    whole = tmp_path / "whole"
    code, _, errors = train(data, whole, "--steps", "6", *options)
    assert code == 0, errors
    for out, left in (("before", 2), ("after", 4)):
        shutil.copytree(whole, tmp_path / out)
        for folder in (tmp_path / out / "checkpoints").iterdir():
            if int(folder.name.removeprefix("step-")) > left:
                shutil.rmtree(folder)
        code, _, errors = train(data, tmp_path / out, "--steps", "6", *options)
        assert code == 0, errors
        expected, actual = tensors(whole, 6), tensors(tmp_path / out, 6)
        exact = [n for n in expected if "running" not in n and "metrics" not in n]
        assert all(torch.equal(expected[name], actual[name]) for name in exact)
    first = tensors(whole, 2)
    g, average = (first[f"model/{name}.fc1.weight"] for name in ("generator", "generator_ema"))
    assert torch.equal(g, average)
    assert first["training/adam_d.step"] == 2
    assert first["training/adam_g.step"] == 0
    assert [r["d_loss"] is None for r in records(whole)] == [True, False, False]


@pytest.mark.slow
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


@pytest.mark.slow
def test_gradients_sent_in_bf16_round_the_weights_and_no_more(data: Path, tmp_path: Path) -> None:
    options = ("--steps", "6", "--precision", "fp32", "--checkpoint-every", "1", "--keep", "9")
    for dtype in ("fp32", "bf16"):
        code, _, errors = train(data, tmp_path / dtype, *options, "--reduce-dtype", dtype)
        assert code == 0, errors

    def difference(kind: str, step: int, over: Callable[..., torch.Tensor]) -> float:
        """Return the relative distance of the runs in all tensors of a kind."""
        runs = [tensors(tmp_path / dtype, step) for dtype in ("fp32", "bf16")]
        flat = [torch.cat([v.flatten() for k, v in run.items() if kind in k]) for run in runs]
        return float((flat[0] - flat[1]).norm() / over(*flat))

    # Adam's first moment after one update is the gradient but for a factor. bf16 rounds each rank's
    # gradient and their sum by up to 2^-9, and the gradients cancel in part.
    moments = difference("exp_avg", 1, lambda a, b: a.norm())
    assert 2**-12 < moments < 2**-6
    weights = difference("model/generator.", 6, lambda a, b: a.norm())
    print(moments, weights)
    assert 0 < weights < 0.05


@pytest.mark.slow
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
    output, errors = process.communicate(timeout=120)
    match = re.search(r"SIGTERM: saved after update (\d+)", output)
    assert match is not None, output + errors
    assert tensors(tmp_path, int(match[1]))


def test_a_signal_gives_a_rank_some_seconds_for_images_that_all_wait_for(monkeypatch):
    now = 100.0
    monkeypatch.setattr("fastinfogan.parallel.time.monotonic", lambda: now)
    with StopSignal() as stop:
        assert not stop.is_overdue()
        signal.raise_signal(signal.SIGTERM)
        assert not stop.is_overdue()
        now += parallel.PATIENCE - 1
        assert not stop.is_overdue()
        now += 1
        assert stop.is_overdue()


LOST = (
    (dist.DistNetworkError, "connection reset by peer"),
    (dist.DistStoreError, "wait timeout after 1000ms. Keys: /default_pg"),
    (dist.DistBackendError, "NCCL communicator was aborted on rank 1"),
    (RuntimeError, "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:544] closed by peer"),
)


@pytest.mark.parametrize(("kind", "words"), LOST)
def test_errors_of_a_collective_that_lost_a_rank_become_one_line(kind, words):
    with pytest.raises(LostRank) as caught, parallel._losing_ranks():
        raise kind(words)
    reason = words.partition("] ")[2] or words.partition(". ")[0]
    assert str(caught.value) == f"lost another rank ({reason})"


@pytest.mark.parametrize(
    "words", ["shape mismatch", "[enforce fail at /gloo/allreduce.cc:12] elements == 3"]
)
def test_an_error_of_the_program_s_own_is_no_lost_rank(words):
    with pytest.raises(RuntimeError) as caught, parallel._losing_ranks():
        raise RuntimeError(words)
    assert str(caught.value) == words


STUCK = """
import sys, time
from fastinfogan import parallel, train
from fastinfogan.data.workers import Stream

parallel.PATIENCE = 1
real = Stream.__call__

def call(self, step):
    if step == 3 and self._rows.indices.__self__.first:  # on the second rank
        print("waiting", file=sys.stderr, flush=True)
        while not self.interrupted():
            time.sleep(0.1)
        raise __import__("fastinfogan.data.workers", fromlist=["x"]).Interrupted
    return real(self, step)

Stream.__call__ = call
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_signal_ends_ranks_of_which_one_waits_for_its_images(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    images = np.load(write_images(tmp_path / "x.npz"))["images"]
    np.save(tmp_path / "x.npy", images)
    options = command(tmp_path / "x.npz", tmp_path / "run", "--steps", "10", "--stream", "always")
    options[options.index("--data") + 1] = f"npy:{tmp_path / 'x.npy'}"
    words = [sys.executable, *TORCHRUN, str(script), *options, "--checkpoint-every", "2"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(words, env={**os.environ, **CPU}, stdout=file, stderr=file)
    for _ in range(1200):
        if "waiting" in log.read_text():
            break
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    text = log.read_text()
    assert list(tmp_path.glob("run/checkpoints/step-*")), text
    assert f'File "{fastinfogan.__path__[0]}' not in text  # no traceback of this package


BUFFERS = """
import os, pathlib, sys
import torch
from fastinfogan import train
from fastinfogan.runs.loop import Training
from fastinfogan.training.step import Step

Training._draw = Training._evaluate = lambda *_: None  # they take time
inner, calls = Step.average_buffers, []

def recorded(self):
    calls.append({f"model/{prefix}.{name}": buffer.clone()
                  for prefix, module in self.modules().items()
                  for name, buffer in module.named_buffers()})
    inner(self)

Step.average_buffers = recorded
code = train.main(sys.argv[2:])
torch.save(calls, pathlib.Path(sys.argv[1], os.environ["RANK"] + ".pt"))
raise SystemExit(code)
"""


@pytest.mark.slow
def test_batchnorms_buffers_are_averaged_before_they_are_saved(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "buffers.py"
    script.write_text(BUFFERS)
    options = [str(tmp_path), *command(data, tmp_path / "run", "--steps", "2")]
    for code, errors in ends(start_ranks(options, options, script=script), 60):
        assert code == 0, errors
    # before the first pictures, before the checkpoint, before the last pictures
    (_, zero, _), (_, one, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    saved = tensors(tmp_path / "run", 2)
    assert len(zero) > 10
    for name, buffer in zero.items():
        assert not torch.equal(buffer, one[name])
        torch.testing.assert_close(saved[name], (buffer + one[name]) / 2)


POISON = """
import os, pathlib, sys
import torch
from fastinfogan import train
from fastinfogan.training.step import Step

inner = Step.__call__

def poisoned(self, step, real):
    d, g = inner(self, step, real)
    bad = os.environ["RANK"] == "1" and step + 1 == 3
    return (d, g._replace(loss=g.loss * float("nan"))) if bad else (d, g)

Step.__call__ = poisoned
code = train.main(sys.argv[2:])
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(str(code))
"""


@pytest.mark.slow
def test_a_non_finite_loss_on_one_rank_ends_both_with_3(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "poison.py"
    script.write_text(POISON)
    options = command(data, tmp_path / "run", "--steps", "8", "--log-every", "4")
    process = launch(*TORCHRUN, str(script), str(tmp_path), *options, env=CPU)
    _, errors = process.communicate(timeout=120)
    assert [(tmp_path / rank).read_text() for rank in ("0", "1")] == ["3", "3"], errors
    assert errors.count("non-finite g_loss in update 3") == 1
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
def test_ranks_of_different_batch_size_both_exit_2_with_one_line(
    data: Path, tmp_path: Path
) -> None:
    same = command(data, tmp_path / "run", "--steps", "2")
    (zero, output), (one, nothing) = ends(start_ranks(same, [*same, "--batch-size", "8"]), 60)
    assert (zero, one) == (2, 2)
    assert output == (
        "error: rank 1 has --batch-size 8, rank 0 has --batch-size 16; start every rank with the "
        "same\n"
    )
    assert nothing == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ranks_of_different_images_both_exit_2_with_one_line(data: Path, tmp_path: Path) -> None:
    fewer = write_images(tmp_path / "fewer.npz", n=60)
    options = [command(d, tmp_path / "run", "--steps", "2") for d in (data, fewer)]
    (zero, output), (one, nothing) = ends(start_ranks(*options), 60)
    assert (zero, one) == (2, 2)
    line = (
        r"error: rank 1 has data \w{16} \(54 images\), rank 0 has data \w{16} \(108 images\); .*\n"
    )
    assert re.fullmatch(line, output)
    assert nothing == ""


@pytest.mark.slow
def test_a_rank_that_finds_no_images_ends_both_with_2_and_one_line(
    data: Path, tmp_path: Path
) -> None:
    options = [command(d, tmp_path / "run", "--steps", "2") for d in (data, tmp_path / "none.npz")]
    (zero, nothing), (one, output) = ends(start_ranks(*options), 60)
    assert (zero, one) == (2, 2)
    assert nothing == ""
    assert output.startswith("rank 1: error: ")
    assert "none.npz" in output
    assert output.count("\n") == 1


def lost(text: str) -> str:
    """Return the line about a lost rank, the only one that is no progress."""
    assert "Traceback" not in text
    (line,) = (x for x in text.splitlines() if not re.match(r"\d+/\d+ ", x))
    return line


@pytest.mark.slow
@pytest.mark.parametrize("dead", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_is_killed_ends_the_other_with_1_and_one_line_and_the_run_goes_on(
    data: Path, tmp_path: Path, dead: int
) -> None:
    options = ["--checkpoint-every", "4"]
    ranks = start_ranks(*[command(data, tmp_path, *options, "--steps", "100000")] * 2)
    # From the second checkpoint on, both ranks know of one.
    while len(list(tmp_path.glob("checkpoints/step-*"))) < 2:
        assert ranks[dead].poll() is None
        time.sleep(0.05)
    ranks[dead].send_signal(signal.SIGSTOP)  # so that the other waits in an all-reduce
    time.sleep(0.5)
    ranks[dead].kill()
    ended = ends(ranks, 30)
    assert ended[dead][0] == -signal.SIGKILL
    code, text = ended[1 - dead]
    assert code == 1
    prefix = "" if dead == 1 else "rank 1: "
    match = re.fullmatch(
        rf"{prefix}error: lost another rank \(.*(?:closed|reset) by peer.*\); "
        r"(.*/checkpoints/step-(\d+)) is the last good checkpoint; run again to go on",
        lost(text),
    )
    assert match is not None, text
    # Rank 0 knows of the newest; rank 1 may know of the one before it alone.
    newest = sorted(tmp_path.glob("checkpoints/step-*"))[-1 if dead == 1 else -2 :]
    assert Path(match[1]) in newest
    if dead == 1:
        return  # once is enough for what follows
    more = command(data, tmp_path, *options, "--steps", str(int(match[2]) + 1))
    assert [code for code, _ in ends(start_ranks(more, more), 60)] == [0, 0]


IMPATIENT = """
import sys
from datetime import timedelta
from fastinfogan import parallel, train
parallel.DEVICE_TIMEOUT = parallel.HOST_TIMEOUT = timedelta(seconds=3)
raise SystemExit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up_after_the_timeout(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "impatient.py"
    script.write_text(IMPATIENT)
    options = command(data, tmp_path / "run", "--checkpoint-every", "4", "--steps", "100000")
    ranks = start_ranks(options, options, script=script)
    try:
        while not list(tmp_path.glob("run/checkpoints/step-*")):
            assert ranks[1].poll() is None
            time.sleep(0.05)
        ranks[1].send_signal(signal.SIGSTOP)
        code, text = ends(ranks[:1], 30)[0]
    finally:
        ranks[1].kill()
        ranks[1].communicate()
    assert code == 1
    assert "lost another rank (Timed out waiting 3000ms" in lost(text)


HANGING = """
import sys, threading
from datetime import timedelta
from fastinfogan import parallel, train
parallel.JOIN_TIMEOUT = timedelta(seconds=1)
parallel.Accelerator = lambda **_: threading.Event().wait()
raise SystemExit(train.main(sys.argv[1:]))
"""


def test_ranks_whose_joining_hangs_end_in_one_line(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    options = command(data, tmp_path / "run", "--steps", "4")
    for code, text in ends(start_ranks(options, options, script=script), 60):
        assert code == 1
        assert re.fullmatch(r"error: the other ranks were not reached within .* run again\n", text)


STARTS = (parallel.start, parallel.start_alone)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "asks for DeepSpeed, expected data parallelism"),
        ("ACCELERATE_USE_FSDP", "1", "asks for FSDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "True", "asks for Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "asks for a parallelism configuration"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "4 gradient accumulation steps"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "use --compile on"),
    ],
)
@pytest.mark.parametrize("start", STARTS)
def test_settings_of_the_launcher_that_would_be_ignored_are_refused(
    name, value, message, start, monkeypatch
):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        start("no", cpu_only=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_USE_FSDP", "false"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
        ("ACCELERATE_DYNAMO_BACKEND", "NO"),
    ],
)
@pytest.mark.parametrize("start", STARTS)
def test_the_launcher_s_plain_settings_are_accepted(name, value, start, monkeypatch, cpu_ranks):
    monkeypatch.setenv(name, value)
    assert cpu_ranks().world_size == 1
    assert start("no", cpu_only=True).world_size == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("ACCELERATE_USE_FSDP", "true"), ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")],
)
def test_fit_refuses_settings_that_would_be_ignored(name, value, data, monkeypatch, tmp_path):
    monkeypatch.setenv(name, value)
    options: dict[str, Any] = {"image_size": 8, "batch_size": 16, "threads": 1}
    with pytest.raises(UserError, match="the launcher asks for"):
        fastinfogan.fit("mnist", steps=2, out=tmp_path / "run", data=f"npz:{data}", **options)
    assert not (tmp_path / "run").exists()
