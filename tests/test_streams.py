"""Standard streams that are closed, gone or of another encoding; home folders; threads."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import command, write_images

import fastinfogan
from fastinfogan import cli, console
from fastinfogan.errors import UserError

COMMAND = (sys.executable, "-m", "fastinfogan.train")


def shell(words: Sequence[str], redirections: str = "", **env: str) -> subprocess.CompletedProcess:
    """Run a command under a shell that closes streams, with variables added."""
    script = f'exec "$@" {redirections}'
    return subprocess.run(
        ["sh", "-c", script, "sh", *words],
        env={**os.environ, **env},
        capture_output=True,
        timeout=300,
        check=False,
    )


class TestSay:
    def test_letters_that_an_encoding_lacks_become_plain_ones(self):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        console.say("evaluating … 28×28, σ ≥ 0, Fréchet, 図", stream)
        assert raw.getvalue() == b"evaluating ... 28x28, sigma >= 0, Frechet, ?\n"

    def test_no_stream_a_closed_one_and_a_stand_in_cost_nothing(self, monkeypatch):
        class Bare:
            """A service's stand-in for a stream: `write` and nothing else."""

            def __init__(self) -> None:
                self.text = ""

            def write(self, text: str) -> None:
                self.text += text

        closed: Any = io.StringIO()
        closed.close()
        console.say("x", closed)
        bare: Any = Bare()
        console.say("x", bare)
        assert bare.text == "x\n"
        monkeypatch.setattr(sys, "stdout", None)
        console.say("x")
        for stream in (None, closed, bare, io.StringIO()):
            assert not console.is_terminal(stream)


def test_a_closed_streams_number_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    script = (
        "from fastinfogan.console import is_terminal, prepare, say\n"
        "import os, sys\nprepare()\nf = open('file', 'w')\n"
        "print('x'); os.write(1, b'x'); os.write(2, b'x'); say('…', sys.stderr)\n"
        "assert f.fileno() > 2 and not is_terminal(sys.stdin)\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    for closed in (">&-", "2>&-", ">&- 2>&- <&-"):
        words = ("env", f"--chdir={tmp_path}", sys.executable, "-c", script)
        done = shell(words, closed, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "file").read_text() == ""


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("redirections", "env"),
    [
        ("2>&-", {}),
        pytest.param(">&-", {}, marks=pytest.mark.slow),
        pytest.param(">&- 2>&- <&-", {}, marks=pytest.mark.slow),
        pytest.param("", {"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        pytest.param("", {"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
        pytest.param("", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ],
)
def test_a_run_comes_to_its_end_whatever_its_streams_are(
    tmp_path: Path, redirections: str, env: dict[str, str]
) -> None:
    data = write_images(tmp_path / "x.npz")
    words = command(data, tmp_path / "run", "--steps", "2", "--log-every", "1")
    done = shell((*COMMAND, *words), redirections, **env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"" or "2>&-" not in redirections
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "run" / "eval.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["train", "--help"], ["presets"], ["presets", "mnist"], []])
def test_help_and_tables_are_printed_in_ascii_and_without_a_stream(words: list[str]) -> None:
    module = (sys.executable, "-m", "fastinfogan", *words)
    for redirections, env in (("", {"PYTHONIOENCODING": "ascii"}), (">&-", {}), ("2>&-", {})):
        done = shell(module, redirections, **env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert bool(done.stdout) == (redirections != ">&-")


class TestHome:
    def test_a_tilde_means_home_where_the_shell_leaves_it(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        words = ["mnist", "--out=~/x", "--resume", "~/y", "--out", "~", "--project", "a~b"]
        home = str(tmp_path)
        expected = ["mnist", f"--out={home}/x", "--resume", f"{home}/y", "--out", home]
        assert cli.expand_words(words) == [*expected, "--project", "a~b"]
        assert cli.parse(["--out=~/x"]).out == tmp_path / "x"
        assert cli.parse(["--out", "~/x"]).run_dir == tmp_path / "x"

    def test_the_home_of_an_unknown_user_is_refused_in_one_line(self, capsys):
        from fastinfogan import sample, train

        for main, words in (
            (train.main, ["--out=~nosuchuser/x"]),
            (train.main, ["--data", "folder:~nosuchuser/x", "--out", "/dev/null/x"]),
            (sample.main, ["~nosuchuser/run"]),
        ):
            assert main(words) == 2
            error = capsys.readouterr().err
            assert error.startswith("error: ~nosuchuser/")
            assert "no user of that name" in error
            assert error.count("\n") == 1

    def test_in_python_too(self, small_run, tmp_path, monkeypatch):
        (tmp_path / "home").symlink_to(small_run.parent)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert fastinfogan.load("~/run").spec == fastinfogan.load(small_run).spec
        with pytest.raises(UserError, match="no user of that name"):
            fastinfogan.load("~nosuchuser/run")

    @pytest.mark.slow
    def test_a_user_without_a_home_trains(self, tmp_path: Path) -> None:
        """As in a container under a number that no password file has."""
        (tmp_path / "sitecustomize.py").write_text(
            "import pwd\n"
            "def none(*_): raise KeyError('uid not found')\n"
            "pwd.getpwuid = pwd.getpwnam = none\n"
        )
        data = write_images(tmp_path / "x.npz")
        words = (*COMMAND, *command(data, tmp_path / "run", "--steps", "1"))
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        done = shell(("env", "-u", "HOME", *words), PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "run" / "eval.json").is_file()
        done = shell(("env", "-u", "HOME", *COMMAND, "--out=~/x"), PYTHONPATH=path)
        assert done.returncode == 2
        assert b"no home folder" in done.stderr


@pytest.mark.parametrize("kind", [str, Path])
def test_fit_takes_a_folders_name_as_text_and_in_any_streams(
    kind, tmp_path, monkeypatch, one_thread
):
    class Bare:
        def write(self, text: str) -> None:
            text.encode("ascii")

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("fastinfogan.runs.loop.Training._evaluate", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", Bare())
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    options: dict[str, Any] = {"codes": "uniform", "noise": 2, "batch_size": 8, "steps": 1}
    fastinfogan.fit("mnist-paper", data=images, out=kind("~/run"), sample_every=0, **options)
    assert (tmp_path / "run" / "checkpoints").is_dir()


@pytest.mark.slow
def test_omp_num_threads_decides_where_the_option_does_not(tmp_path: Path) -> None:
    data = write_images(tmp_path / "x.npz")
    for option, expected in (("0", 1), ("2", 2)):
        out = tmp_path / option
        words = command(data, out, "--steps", "1", "--threads", option)
        done = shell((*COMMAND, *words), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "environment.json").read_text())["threads"] == expected
