"""The run folder's lock, also on file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from fastinfogan.errors import UserError
from fastinfogan.presets import PRESETS
from fastinfogan.runs import folder
from fastinfogan.runs.folder import RunDir
from fastinfogan.runs.resume import open_folder

NO_LOCKS = [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch):
    """Return a file system whose locks fail with an error number."""
    monkeypatch.setattr(folder, "LOCK_SECONDS", 0.1)

    def install(code: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", flock)

    return install


@pytest.mark.parametrize("code", NO_LOCKS)
def test_without_locks_a_file_keeps_a_second_run_out_and_one_line_says_so(
    tmp_path: Path, refuse, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(code)
    lock = RunDir(tmp_path).lock()
    assert len(capsys.readouterr().out.splitlines()) == 1
    with pytest.raises(UserError, match=r"in use by another run.*or remove .* if no run is left$"):
        RunDir(tmp_path).lock()
    lock.release()
    RunDir(tmp_path).lock().release()


def test_the_locks_of_an_older_filelock_are_replaced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(self: filelock.FileLock, timeout: float) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    assert isinstance(RunDir(tmp_path).lock(), filelock.SoftFileLock)


KILLED = """
import filelock, os, sys
lock = filelock.SoftFileLock(sys.argv[1])
lock.acquire()
os._exit(1)
"""


def test_the_lock_file_of_a_killed_run_keeps_no_run_out(
    tmp_path: Path, refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / ".in-use")])
    assert (tmp_path / ".in-use").exists()
    refuse(errno.ENOTSUP)
    monkeypatch.setattr(folder, "LOCK_SECONDS", 10)
    RunDir(tmp_path).lock().release()


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_another_failure_to_lock_is_one_line(tmp_path: Path, refuse, code: int) -> None:
    refuse(code)
    with pytest.raises(UserError, match=f"cannot write .*{os.strerror(code)}"):
        RunDir(tmp_path).lock()


def test_leftovers_of_a_killed_writer_are_deleted_when_the_run_goes_on(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.make()
    left = [run.path / ".eval.json.tmp", run.samples / ".real.png.tmp"]
    kept = [run.path / ".gitignore", run.samples / "real.png", run.path / "notes.tmp"]
    for path in left + kept:
        path.touch()
    open_folder(PRESETS["mnist"], run).release()
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in kept)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", RunDir(tmp_path / "run")
    victim.write_text("mine")
    run.make()
    (run.path / ".lock").symlink_to(victim)
    with pytest.raises(UserError, match="cannot write"):
        run.lock()
    assert victim.read_text() == "mine"
