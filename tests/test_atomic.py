"""Files that hold their old or their whole new content: order of calls, refusals, planted links."""

import errno
import os
from pathlib import Path

import pytest
import torch

from fastinfogan import atomic
from fastinfogan.errors import UserError
from fastinfogan.runs import checkpoint


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record of the disk's operations, in order: writes, flushes, syncs and renames by name."""
    seen: list[str] = []
    names: dict[int, str] = {}
    inner_open, inner_sync, inner_fdopen = os.open, os.fsync, os.fdopen
    inner_replace, inner_rename = Path.replace, Path.rename

    def opened(path, *args, **kwargs):
        handle = inner_open(path, *args, **kwargs)
        names[handle] = Path(path).name
        return handle

    def synced(handle):
        seen.append(f"fsync {names[handle]}")
        inner_sync(handle)

    def file_of(handle, mode):
        return inner_fdopen(handle, mode) if mode == "rb" else File(handle, mode)

    class File:
        def __init__(self, handle, mode):
            self.file, self.name = inner_fdopen(handle, mode), names[handle]

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, data):
            seen.append(f"write {self.name}")
            return self.file.write(data)

        def flush(self):
            seen.append(f"flush {self.name}")
            self.file.flush()

        def fileno(self):
            return self.file.fileno()

    def replaced(path, target):
        seen.append(f"rename {path.name} {Path(target).name}")
        return inner_replace(path, target)

    def renamed(path, target):
        seen.append(f"rename {path.name} {Path(target).name}")
        return inner_rename(path, target)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "fdopen", file_of)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "rename", renamed)
    return seen


def test_a_file_is_written_flushed_synced_renamed_and_its_folder_synced(tmp_path, calls):
    atomic.write_atomically(tmp_path / "eval.json", "{}")
    temporary = ".eval.json.tmp"
    assert calls == [
        f"write {temporary}",
        f"flush {temporary}",
        f"fsync {temporary}",
        f"rename {temporary} eval.json",
        f"fsync {tmp_path.name}",
    ]


def test_a_checkpoint_is_synced_file_by_file_before_it_is_renamed_and_its_folder_after(
    tmp_path, calls
):
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 3, {"model": {"w": torch.ones(2)}}, {}, 1)
    temporary = ".step-00000003.tmp"
    files = ("model.safetensors", "manifest.json")
    assert calls == [
        *(f"{what} {name}" for name in files for what in ("write", "flush", "fsync")),
        f"fsync {temporary}",
        f"rename {temporary} step-00000003",
        "fsync checkpoints",
    ]


def test_no_handle_of_a_file_or_its_folder_stays_open(tmp_path, monkeypatch):
    opened: list[int] = []
    inner = os.open

    def noted(*args):
        opened.append(inner(*args))
        return opened[-1]

    monkeypatch.setattr(os, "open", noted)
    atomic.write_atomically(tmp_path / "a.json", "{}")
    assert len(opened) == 2  # the file and its folder
    for handle in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


@pytest.mark.parametrize("number", ["EINVAL", "ENOTSUP", "EBADF"])
def test_a_file_system_that_refuses_to_sync_ends_nothing(tmp_path, monkeypatch, number):
    """SMB and FUSE mounts do."""

    def refuse(handle):
        raise OSError(getattr(errno, number), "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    atomic.write_atomically(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"


@pytest.mark.parametrize("number", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_disk_that_fails_at_a_sync_is_an_error_and_the_old_content_stays(
    tmp_path, monkeypatch, number
):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(handle):
        raise OSError(getattr(errno, number), "no more")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*a\.json: no more"):
        atomic.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_planted_link_is_not_written_through(tmp_path):
    """Whoever may write to the folder could name the temporary file beforehand."""
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    (folder / ".a.json.tmp").symlink_to(victim)
    atomic.write_atomically(folder / "a.json", "new")
    assert victim.read_text() == "precious"
    assert (folder / "a.json").read_text() == "new"
    assert not (folder / "a.json").is_symlink()


def test_a_thing_in_the_way_of_a_temporary_file_is_removed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    folder = tmp_path / "folder"
    (folder / ".a.tmp").mkdir(parents=True)
    (folder / ".a.tmp" / "file").write_text("")
    (folder / ".b.tmp").symlink_to(outside)
    for name in "ab":
        atomic.write_atomically(folder / name, name)
    assert [(folder / name).read_text() for name in "ab"] == ["a", "b"]
    (folder / ".c.tmp").mkdir()
    (folder / ".d.tmp").symlink_to(outside)
    atomic.clear_leftovers(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    assert (outside / "file").read_text() == "mine"


def test_a_link_in_place_of_a_temporary_checkpoint_is_removed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for end in ("tmp", "old"):
        (folder / f".step-00000003.{end}").symlink_to(outside)
    checkpoint.save(folder, 3, {"model": {"x": torch.zeros(1)}}, {}, keep=1)
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    for end in ("tmp", "old"):
        (folder / f".step-00000004.{end}").symlink_to(outside)
    checkpoint.clear_leftovers(folder)
    assert not (folder / ".step-00000004.tmp").is_symlink()
    assert list(outside.iterdir()) == []


def test_a_folder_is_found_writable_without_being_made(tmp_path):
    atomic.check_writable(tmp_path / "a" / "b", "--out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file/b: .*; choose another --out$"):
        atomic.check_writable(tmp_path / "file" / "b", "--out")


class TestReadRegular:
    def test_a_file_and_a_link_to_one_are_read(self, tmp_path):
        path, link = tmp_path / "a", tmp_path / "b"
        path.write_bytes(b"1234")
        link.symlink_to(path)
        assert atomic.read_regular(path, 4) == atomic.read_regular(link, 4) == b"1234"
        with atomic.open_regular(path) as file:
            assert file.read(2) == b"12"

    def test_a_file_larger_than_expected_is_not_read(self, tmp_path):
        path = tmp_path / "a"
        with path.open("wb") as file:
            file.truncate(2**40)  # which holds no block of the disk
        with pytest.raises(OSError, match=r"has 1,099,511,627,776 bytes, expected at most 10"):
            atomic.read_regular(path, 10)

    def test_a_pipe_a_device_or_a_folder_is_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "zero").symlink_to("/dev/zero")
        for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path):
            with pytest.raises(OSError, match="not a regular file"):
                atomic.read_regular(path, 10)

    def test_a_missing_file_is_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            atomic.read_regular(tmp_path / "a", 10)

    def test_no_handle_is_left_open(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(OSError, match="not a regular file"):
                atomic.open_regular(tmp_path / "pipe")
        assert len(os.listdir("/proc/self/fd")) == before
