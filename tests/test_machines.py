"""Several machines, as two launchers on this one, each with a loopback address."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers.runs import command, free_port, launch, tensors, write_images

EXAMPLES = Path(__file__).parents[1] / "examples"
TRAIN = ("-m", "fastinfogan.train")
CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
SAVES = ("--checkpoint-every", "4")


def accelerate(machine: int, port: int) -> tuple[str, ...]:
    return (
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"),
        *("--num_processes", "2", "--machine_rank", str(machine)),
        *("--main_process_ip", "127.0.0.1", "--main_process_port", str(port)),
    )


def torchrun(machine: int, port: int) -> tuple[str, ...]:
    return (
        *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--node_rank", str(machine), "--master_addr", "127.0.0.1", "--master_port", str(port)),
        *("--local_addr", f"127.0.0.{machine + 1}"),
    )


LAUNCHERS = {"accelerate": accelerate, "torchrun": torchrun}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images.npz")


# `fastinfogan.train`, after which each rank writes a hash of its weights and moments to HASHES.
HASHING = """
import hashlib, os, pathlib, sys
from fastinfogan import train
from fastinfogan.runs.loop import Training

inner = Training.run

def run(self):
    code = inner(self)
    digest = hashlib.sha256()
    for tensors in self._tensors().values():
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.detach().double().numpy().tobytes())
    pathlib.Path(os.environ["HASHES"], os.environ["RANK"]).write_text(digest.hexdigest())
    return code

Training.run = run
raise SystemExit(train.main(sys.argv[1:]))
"""


def start(
    launcher: str, data: Path, folder: Path, *more: str, hashes: Path | None = None
) -> list[subprocess.Popen[str]]:
    """Start the same command on two machines; each has a working folder of its own.

    hashes: the folder to which each rank writes a hash of what it ends with.
    """
    port = free_port()
    program: tuple[str, ...] = TRAIN
    env = CPU
    if hashes is not None:
        hashes.mkdir(parents=True)
        script = hashes / "hashing.py"
        script.write_text(HASHING)
        program, env = (str(script),), CPU | {"HASHES": str(hashes)}
    return [
        launch(
            *LAUNCHERS[launcher](machine, port),
            *program,
            *command(data, folder / f"machine-{machine}", *SAVES, *more),
            env=env,
        )
        for machine in (0, 1)
    ]


def finish(machines: list[subprocess.Popen[str]]) -> list[str]:
    texts = ["".join(machine.communicate(timeout=600)) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], texts
    return texts


def wait_for(path: Path, machines: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert all(machine.poll() is None for machine in machines)
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def vanish(machine: subprocess.Popen[str]) -> None:
    """Kill a launcher's ranks and the launcher, so that none can tell the other machine."""
    launcher = psutil.Process(machine.pid)
    for process in (*launcher.children(recursive=True), launcher):
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_machines_train_and_resume_to_the_same_weights(
    data: Path, tmp_path: Path, launcher: str
) -> None:
    for name, lengths in (("whole", ("8",)), ("parts", ("4", "8"))):
        for steps in lengths:
            hashes = tmp_path / name / f"hashes-{steps}"
            folder = tmp_path / name
            machines = start(launcher, data, folder, "--steps", steps, hashes=hashes)
            first, _ = finish(machines)
            assert "2 ranks" in first
            assert (hashes / "0").read_text() == (hashes / "1").read_text()
    whole, parts = (tensors(tmp_path / name / "machine-0", 8) for name in ("whole", "parts"))
    # BatchNorm's buffers and the metrics' sums are averaged at each save, so they may round
    differing = [k for k in whole if not torch.equal(whole[k], parts[k])]
    assert [k for k in differing if "running" not in k and "metrics" not in k] == []
    environment = json.loads((tmp_path / "whole" / "machine-0" / "environment.json").read_text())
    assert environment["world_size"] == 2
    assert not (tmp_path / "whole" / "machine-1").exists()  # rank 0 alone writes


@pytest.mark.slow
@pytest.mark.parametrize(("gone", "launcher"), list(enumerate(LAUNCHERS)))
def test_the_run_goes_on_after_a_machine_disappears_and_the_other_ends(
    data: Path, tmp_path: Path, launcher: str, gone: int
) -> None:
    machines = start(launcher, data, tmp_path, "--steps", "100000")
    other = machines[1 - gone]
    try:
        # From the second checkpoint on, both ranks know of one.
        wait_for(tmp_path / "machine-0" / "checkpoints" / "step-00000008", machines)
        vanish(machines[gone])
        output, errors = other.communicate(timeout=120)
    finally:
        for machine in machines:
            if machine.poll() is None:
                vanish(machine)
            machine.communicate()
    assert other.returncode == 1
    prefix = "" if gone == 1 else "rank 1: "
    (line,) = re.findall(rf"^{prefix}error: lost another rank .*$", errors, re.M)
    match = re.search(r"step-(\d+) is the last good checkpoint; run again to go on", line)
    assert match is not None, output + errors
    finish(start(launcher, data, tmp_path, "--steps", str(int(match[1]) + 2)))


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_lost_a_rank_from_its_last_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    options = command(data, tmp_path / "run", *SAVES, "--steps", "100")
    # Else torch's restarted ranks may read the addresses of the lost ones, and wait for good.
    env = CPU | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    process = launch(*launcher, "--max-restarts", "1", *TRAIN, *options, env=env)
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000004", [process])
    (victim,) = (
        child
        for child in psutil.Process(process.pid).children()
        if child.environ().get("RANK") == "1"
    )
    victim.kill()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    begun = [int(n) for n in re.findall(r"updates (\d+) to 100", output)]
    assert begun[0] == 1
    assert begun[1] > 4  # it did not begin anew
    assert tensors(tmp_path / "run", 100)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_sound_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
