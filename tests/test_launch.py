"""Launchers, ranks, signals and kills, in real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from helpers.runs import assert_same_run, command, launch, write_images

TRAIN = ("-m", "fastinfogan.train")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images.npz")


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Wait until a file below `path` matches, or the process has ended."""
    for _ in range(1200):
        if list(path.glob(pattern)):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {path} within a minute")


LONG = ("--log-every", "5", "--checkpoint-every", "5", "--steps", "100000")


def finish(data: Path, out: Path, steps: int) -> None:
    """Run on to `steps` and compare with a run that nothing happened to."""
    options = ("--log-every", "5", "--checkpoint-every", "5", "--steps", str(steps))
    for folder in (out, whole := out.with_name("whole")):
        process = launch(*TRAIN, *command(data, folder, *options))
        out_text, err_text = process.communicate(timeout=300)
        assert process.returncode == 0, out_text + err_text
    assert_same_run(whole, out, steps)


def newest(out: Path) -> int:
    return max(int(p.name.split("-")[1]) for p in (out / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_with_128_plus_its_number_and_the_run_goes_on_as_if_nothing_was(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = launch(*TRAIN, *command(data, out, *LONG))
    wait_for(out, "checkpoints/step-00000005", process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    match = re.search(rf"{number.name}: saved after update (\d+)", output)
    assert match is not None, output
    assert newest(out) == int(match[1])
    finish(data, out, newest(out) + 7)


@pytest.mark.slow
def test_a_kill_costs_at_most_the_updates_since_the_last_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for checkpoints in ("step-00000005", "step-0000001*", "step-0000002*"):
        process = launch(*TRAIN, *command(data, out, *LONG))
        wait_for(out, f"checkpoints/{checkpoints}", process)
        process.kill()
        process.communicate(timeout=60)
    assert newest(out) >= 20
    finish(data, out, newest(out) + 3)


LAUNCHERS = {
    "accelerate": (
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--main_process_port", "0"),
    ),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
}


@pytest.mark.parametrize(
    "launcher", ["accelerate", pytest.param("torchrun", marks=pytest.mark.slow)]
)
def test_two_gloo_ranks_are_really_two(data: Path, tmp_path: Path, launcher: str) -> None:
    env = {"ACCELERATE_USE_CPU": "true"} if launcher == "accelerate" else {}
    process = launch(
        *LAUNCHERS[launcher], *TRAIN, *command(data, tmp_path, "--steps", "6"), env=env
    )
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "2 ranks" in output
    assert json.loads((tmp_path / "environment.json").read_text())["world_size"] == 2
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["images"] == 6 * 16 * 2


@pytest.mark.slow
def test_a_launch_that_would_silently_run_one_rank_is_refused(data: Path, tmp_path: Path) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    process = launch(*launcher, *TRAIN, *command(data, tmp_path / "run", "--steps", "2"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1  # the launcher's translation of our 2
    assert "was to start several processes but started one" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_launchers_one_thread_and_fp32_do_not_reach_the_run(data: Path, tmp_path: Path) -> None:
    from fastinfogan import device

    expected, _ = device.choose_precision("auto", device.use_cpu())
    for threads, precision in ((0, expected), (3, "bf16")):
        out = tmp_path / precision / str(threads)
        choice = ("--threads", str(threads), "--precision", "auto" if not threads else precision)
        options = command(data, out, "--steps", "2", *choice)
        process = launch("-m", "accelerate.commands.launch", *TRAIN, *options)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        environment = json.loads((out / "environment.json").read_text())
        assert environment["threads"] == (threads or device.cpu_threads())
        assert environment["precision"] == precision


@pytest.mark.slow
def test_ctrl_c_under_the_launcher_saves_and_the_same_command_goes_on_at_once(
    data: Path, tmp_path: Path
) -> None:
    """Ctrl-C reaches the launcher too, which is gone while the run still saves."""
    launched = ("-m", "accelerate.commands.launch", *TRAIN)
    process = launch(*launched, *command(data, tmp_path, *LONG), new_session=True)
    wait_for(tmp_path, "checkpoints/step-00000005", process)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=60)
    options = ("--log-every", "5", "--checkpoint-every", "5", "--steps", str(newest(tmp_path) + 40))
    again = launch(*TRAIN, *command(data, tmp_path, *options))
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, output + errors
    assert "SIGINT: saved after update" in process.communicate(timeout=60)[0]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX process trees")
def test_a_run_whose_launcher_is_killed_saves_and_stops(data: Path, tmp_path: Path) -> None:
    launcher = ("-m", "accelerate.commands.launch")
    process = launch(*launcher, *TRAIN, *command(data, tmp_path, *LONG))
    wait_for(tmp_path, "checkpoints/step-00000005", process)
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    child.wait(timeout=60)
    output, _ = process.communicate(timeout=60)
    match = re.search(r"SIGTERM: saved after update (\d+)", output)
    assert match is not None, output
    assert newest(tmp_path) == int(match[1])


@pytest.mark.slow
def test_the_console_script_has_the_three_commands(data: Path, tmp_path: Path) -> None:
    def script(*args: str) -> tuple[int, str, str]:
        process = launch("-m", "fastinfogan", *args)
        output, errors = process.communicate(timeout=120)
        return process.returncode, output, errors

    run = tmp_path / "run"
    assert script("train", *command(data, run, "--steps", "2"))[0] == 0
    code, output, _ = script("evaluate", str(run))
    assert code == 0
    assert json.loads(output) == json.loads((run / "eval.json").read_text())
    picture = tmp_path / "grid.png"
    assert script("sample", str(run), "--out", str(picture), "--traverse", "c1")[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert script("--help")[0] == 0
    code, _, errors = script("trian")
    assert code == 2
    assert "expected one of train, evaluate, sample" in errors
    for args in (
        ("evaluate", "nowhere"),
        ("sample", "nowhere"),
        ("sample", str(run), "--traverse", "c9"),
    ):
        code, _, errors = script(*args)
        assert code == 2
        assert len(errors.splitlines()) == 1, errors
        assert errors.startswith("error: ")


@pytest.mark.slow
def test_400_updates_on_mnist_give_codes_and_pictures(tmp_path: Path) -> None:
    # λ starts at update 200: before that G knows nothing of the code.
    # One thread, as another test may run next to this one.
    few = ("--steps", "400", "--batch-size", "64", "--threads", "1")
    process = launch(*TRAIN, *few, "--out", str(tmp_path))
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    result = json.loads((tmp_path / "eval.json").read_text())
    # Of log 10 = 2.30 nats, as training saw it: the averaged generator is still poor by then.
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["information"]["c1_categorical"] > 1.5
    assert result["information"]["c1_categorical"] > 0
    assert result["code_accuracy"] > 0.6  # chance is about 0.11
    assert result["images"]["codes"] == 10_000
    assert "of 10,000 test images" in output
