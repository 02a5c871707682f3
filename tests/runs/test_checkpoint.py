"""Checkpoints: bit for bit, all or nothing, and never silently wrong."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastinfogan import atomic
from fastinfogan.errors import UserError
from fastinfogan.runs import checkpoint
from fastinfogan.runs.checkpoint import Damaged

META = {"precision": "fp32", "world_size": 2, "scaler": None}


def tensors(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"weight": torch.full((2, 3), value), "bias": torch.arange(3.0)},
        "training": {"step": torch.tensor(7.0)},
    }


def save(folder: Path, step: int, value: float | None = None, keep: int = 9) -> Path:
    return checkpoint.save(folder, step, tensors(step if value is None else value), META, keep)


def names(folder: Path) -> list[str]:
    """Return all that lies in the folder, hidden or not."""
    return sorted(p.name for p in folder.iterdir())


def assert_same(result: checkpoint.Checkpoint, step: int, value: float) -> None:
    assert result.step == step
    assert result.meta == META
    expected = tensors(value)
    assert result.tensors.keys() == expected.keys()
    for file, named in expected.items():
        assert result.tensors[file].keys() == named.keys()
        for name, tensor in named.items():
            assert torch.equal(result.tensors[file][name], tensor)


class TestRoundTrip:
    @pytest.mark.parametrize(
        "tensor",
        [
            torch.randn(3, 5),
            torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
            torch.randn(3, 5).bfloat16(),
            torch.randn(3, 5).half(),
            torch.randn(3, 5).double(),
            torch.tensor([-(2**63), 2**63 - 1, 0]),
            torch.tensor([True, False]),
            torch.tensor(3.25),
            torch.tensor(2**62),
            torch.empty(0, 4),
            torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
            torch.randn(4, 6)[:, ::2],
            torch.randn(2, 3, requires_grad=True),
        ],
        ids=lambda t: f"{t.dtype} {list(t.shape)} {t.stride()}",
    )
    def test_every_kind_of_tensor_comes_back_bit_for_bit(self, tmp_path, tensor):
        path = checkpoint.save(tmp_path, 3, {"model": {"x": tensor}}, {}, 1)
        result = checkpoint.load(path).tensors["model"]["x"]
        assert result.dtype == tensor.dtype
        assert result.shape == tensor.shape
        bits, expected = (
            t.detach().contiguous().flatten().view(torch.uint8) for t in (result, tensor)
        )
        assert torch.equal(bits, expected)

    def test_step_names_files_and_meta_come_back(self, tmp_path):
        path = save(tmp_path / "new" / "folder", 1234)
        assert path.name == "step-00001234"
        assert_same(checkpoint.load(path), 1234, 1234)

    def test_all_tensors_lie_in_safetensors_and_nothing_is_pickled(self, tmp_path):
        path = save(tmp_path, 5)
        assert names(path) == ["manifest.json", "model.safetensors", "training.safetensors"]
        json.loads((path / "manifest.json").read_text())

    def test_a_step_of_more_than_eight_digits_sorts_as_a_number(self, tmp_path):
        for step in (5, 99_999_999, 100_000_000):
            save(tmp_path, step)
        steps = [checkpoint.step_of(p) for p in checkpoint.list_newest_first(tmp_path)]
        assert steps == [100_000_000, 99_999_999, 5]


class TestAtomic:
    # Everything that `save` asks of the disk, in its order.
    failures = (
        (Path, "mkdir"),
        (Path, "open"),
        (os, "fsync"),
        (Path, "rename"),
    )

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
    @pytest.mark.parametrize(("where", "name"), failures)
    @pytest.mark.parametrize("nth", [0, 1, 2, 3])
    def test_a_write_that_fails_leaves_what_was_there(
        self, tmp_path, monkeypatch, where, name, nth, code
    ):
        save(tmp_path, 1)
        save(tmp_path, 2)
        inner, calls = getattr(where, name), 0

        def fail(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == nth + 1:
                raise OSError(code, os.strerror(code))
            return inner(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(where, name, fail)
            try:
                save(tmp_path, 3, keep=1)
            except UserError as error:
                assert os.strerror(code) in str(error)  # noqa: PT017
                assert "step-00000003" in str(error)  # noqa: PT017
                failed = True
            else:
                failed = False
        assert failed == (calls > nth)
        kept = {p.name for p in checkpoint.list_newest_first(tmp_path)}
        assert set(names(tmp_path)) == kept  # no temporary
        if failed:
            assert kept >= {"step-00000001", "step-00000002"}
            assert_same(checkpoint.load(tmp_path / "step-00000002"), 2, 2)
        else:
            assert kept == {"step-00000003"}

    def test_a_torn_write_is_found_by_reading_back(self, tmp_path, monkeypatch):
        save(tmp_path, 1)
        inner = atomic.write_and_sync

        def tear(path, data):
            inner(path, data[:-1] if path.name == "training.safetensors" else data)

        monkeypatch.setattr(atomic, "write_and_sync", tear)
        with pytest.raises(UserError, match=r"training\.safetensors"):
            save(tmp_path, 2, keep=1)
        assert names(tmp_path) == ["step-00000001"]

    def test_a_failure_to_replace_a_checkpoint_leaves_the_old_one(self, tmp_path, monkeypatch):
        save(tmp_path, 4, value=1.0)

        def fail(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            for name in ("rename", "replace"):
                patch.setattr(Path, name, fail)
                patch.setattr(os, name, fail)
            with pytest.raises(UserError):
                save(tmp_path, 4, value=2.0)
        assert_same(checkpoint.load(tmp_path / "step-00000004"), 4, 1.0)

    def test_leftovers_of_a_killed_write_are_ignored_and_cleared(self, tmp_path):
        save(tmp_path, 1)
        left = tmp_path / ".step-00000002.tmp"
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"torn")
        (tmp_path / "notes").mkdir()
        result, notes = checkpoint.load_newest(tmp_path)
        assert result is not None
        assert (result.step, notes) == (1, [])
        save(tmp_path, 2)
        assert names(tmp_path) == ["notes", "step-00000001", "step-00000002"]

    def test_saving_a_step_again_replaces_it(self, tmp_path):
        save(tmp_path, 4, value=1.0)
        path = save(tmp_path, 4, value=2.0)
        assert_same(checkpoint.load(path), 4, 2.0)
        assert names(tmp_path) == ["step-00000004"]

    def test_saving_a_step_again_replaces_what_a_killed_save_of_it_moved_away(self, tmp_path):
        save(tmp_path, 4, value=1.0)
        shutil.copytree(tmp_path / "step-00000004", tmp_path / ".step-00000004.old")
        path = save(tmp_path, 4, value=2.0)
        assert_same(checkpoint.load(path), 4, 2.0)
        assert names(tmp_path) == ["step-00000004"]

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(UserError, match=r"cannot write .*file"):
            save(tmp_path / "file", 1)


class TestKeep:
    @pytest.mark.parametrize("keep", [1, 2, 3, 9])
    def test_the_newest_are_kept(self, tmp_path, keep):
        for step in range(1, 6):
            save(tmp_path, step, keep=keep)
        assert names(tmp_path) == [f"step-{s:08d}" for s in range(max(6 - keep, 1), 6)]

    @pytest.mark.parametrize("keep", [1, 2])
    def test_a_damaged_newer_one_never_costs_the_one_just_written(self, tmp_path, keep):
        """A run that resumed behind a damaged checkpoint saves earlier steps than that one's."""
        for step in (1, 3):
            save(tmp_path, step)
        (tmp_path / "step-00000003" / "model.safetensors").write_bytes(b"")
        save(tmp_path, 2, keep=keep)
        result, _ = checkpoint.load_newest(tmp_path)
        assert result is not None
        assert_same(result, 2, 2)


def truncate(path: Path) -> None:
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-8])


def flip(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (path / "model.safetensors").write_bytes(content)


def lose(path: Path) -> None:
    (path / "training.safetensors").unlink()


def lose_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def empty_manifest(path: Path) -> None:
    (path / "manifest.json").write_bytes(b"")


def wrong_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("[1, 2]")


def half_a_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"step": 2, "files": {}}')


def binary_manifest(path: Path) -> None:
    (path / "manifest.json").write_bytes(b"\xff\xfe\x00garbage")


def folder_for_a_file(path: Path) -> None:
    lose(path)
    (path / "training.safetensors").mkdir()


DAMAGES = [
    truncate,
    flip,
    lose,
    lose_manifest,
    empty_manifest,
    wrong_manifest,
    half_a_manifest,
    binary_manifest,
    folder_for_a_file,
]


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_it_is_found_and_named(self, tmp_path, damage):
        path = save(tmp_path, 2)
        damage(path)
        with pytest.raises(Damaged, match="step-00000002"):
            checkpoint.load(path)

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_the_one_before_is_used_and_one_line_names_both(self, tmp_path, damage):
        for step in (1, 2):
            save(tmp_path, step)
        damage(tmp_path / "step-00000002")
        result, notes = checkpoint.load_newest(tmp_path)
        assert result is not None
        assert_same(result, 1, 1)
        assert len(notes) == 1
        assert "\n" not in notes[0]
        assert "step-00000002" in notes[0]
        assert "using step-00000001" in notes[0]

    def test_each_damaged_one_has_its_line(self, tmp_path):
        for step in (1, 2, 3):
            save(tmp_path, step)
        flip(tmp_path / "step-00000002")
        lose(tmp_path / "step-00000003")
        _, notes = checkpoint.load_newest(tmp_path)
        assert [("step-00000003" in n, "step-00000002" in n) for n in notes] == [
            (True, False),
            (False, True),
        ]

    def test_one_line_says_what_to_do_where_all_are_damaged(self, tmp_path):
        for step in (1, 2):
            flip(save(tmp_path, step))
        with pytest.raises(UserError, match=r"(?s)^[^\n]*--out[^\n]*$") as caught:
            checkpoint.load_newest(tmp_path)
        assert "step-00000001" in str(caught.value)
        assert "step-00000002" in str(caught.value)

    @pytest.mark.parametrize("folder", [".", "missing"])
    def test_no_checkpoint_is_no_damage(self, tmp_path, folder):
        assert checkpoint.load_newest(tmp_path / folder) == (None, [])

    @given(file=st.integers(0, 2), at=st.integers(0, 4095), bit=st.integers(0, 7))
    @example(file=0, at=11, bit=0)  # a digit of the manifest's step
    @settings(max_examples=150, deadline=None)
    def test_no_flipped_bit_gives_other_content(self, tmp_path_factory, file, at, bit):
        folder = tmp_path_factory.mktemp("run")
        path = save(folder, 2)
        damaged = sorted(path.iterdir())[file]
        content = bytearray(damaged.read_bytes())
        content[at % len(content)] ^= 1 << bit
        damaged.write_bytes(content)
        try:
            result = checkpoint.load(path)
        except Damaged:
            pass
        else:
            assert_same(result, 2, 2)
        shutil.rmtree(folder)


class TestWhileARunGoesOn:
    def test_a_checkpoint_that_a_run_deletes_while_it_is_read_is_no_damage(
        self, tmp_path, monkeypatch
    ):
        """With --keep 1 a run deletes the one that a reader has just listed."""
        save(tmp_path, 3, keep=1)
        inner = checkpoint.load
        saved: list[Path] = []

        def load(path: Path) -> checkpoint.Checkpoint:
            if not saved:
                saved.append(save(tmp_path, 6, keep=1))
            return inner(path)

        monkeypatch.setattr(checkpoint, "load", load)
        newest, notes = checkpoint.load_newest(tmp_path)
        assert newest is not None
        assert (newest.step, notes) == (6, [])

    def test_a_listing_between_a_rename_and_a_deletion_may_show_no_checkpoint(
        self, tmp_path, monkeypatch
    ):
        save(tmp_path, 3, keep=1)
        inner, empty = checkpoint.list_newest_first, [True, False, True, False]

        def listing(folder: Path) -> list[Path]:
            return [] if empty and empty.pop(0) else inner(folder)

        monkeypatch.setattr(checkpoint, "list_newest_first", listing)
        for _ in range(2):
            newest, notes = checkpoint.load_newest(tmp_path)
            assert newest is not None
            assert (newest.step, notes) == (3, [])

    def test_a_folder_without_checkpoints_has_none(self, tmp_path):
        assert checkpoint.load_newest(tmp_path) == (None, [])
        assert checkpoint.load_newest(tmp_path / "missing") == (None, [])

    def test_checkpoints_that_go_before_they_are_read_are_a_reason_to_try_again(
        self, tmp_path, monkeypatch
    ):
        save(tmp_path, 1, keep=1)
        inner, last = checkpoint.load, [1]

        def load(path: Path) -> checkpoint.Checkpoint:
            last[0] += 1
            save(tmp_path, last[0], keep=1)
            return inner(path)

        monkeypatch.setattr(checkpoint, "load", load)
        with pytest.raises(UserError, match=r"faster than they can be read; try again$"):
            checkpoint.load_newest(tmp_path)


class TestHostileManifests:
    @staticmethod
    def rewrite(path: Path, change) -> None:
        manifest = json.loads((path / checkpoint.MANIFEST).read_text())
        change(manifest)
        manifest["sha256"] = checkpoint._seal(manifest)
        (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))

    @pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/hostname", "a/b.safetensors"])
    def test_a_manifest_names_no_file_outside_its_folder(self, tmp_path, name):
        path = save(tmp_path, 3)
        outside = tmp_path / "secret.safetensors"
        outside.write_bytes((path / "model.safetensors").read_bytes())

        def change(manifest) -> None:
            manifest["files"][name] = manifest["files"].pop("model.safetensors")

        self.rewrite(path, change)
        with pytest.raises(Damaged, match="is not the name of a file of it"):
            checkpoint.load(path)

    @pytest.mark.parametrize("meta", [None, [], "text", 3])
    def test_meta_of_another_type_is_damage(self, tmp_path, meta):
        path = save(tmp_path, 3)
        self.rewrite(path, lambda manifest: manifest.update(meta=meta))
        with pytest.raises(Damaged, match="meta is no object"):
            checkpoint.load(path)

    def test_a_manifest_that_is_nested_too_deeply_is_damage(self, tmp_path):
        path = save(tmp_path, 3)
        (path / checkpoint.MANIFEST).write_text("[" * 100_000)
        with pytest.raises(Damaged):
            checkpoint.load(path)


class TestRestore:
    def test_values_go_into_the_live_tensors(self):
        live = {"a": torch.zeros(2, 2), "b": torch.zeros((), dtype=torch.int64)}
        held = dict(live)
        saved = {"b": torch.tensor(5), "a": torch.arange(4.0).reshape(2, 2)}
        checkpoint.restore(live, saved, "here")
        assert held["a"].tolist() == [[0, 1], [2, 3]]
        assert held["b"] == 5

    def test_parameters_and_channels_last_stay_what_they_are(self):
        live = torch.nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
        saved = torch.randn(2, 3, 4, 4)
        checkpoint.restore({"w": live}, {"w": saved}, "here")
        assert live.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(live, saved)

    @pytest.mark.parametrize(
        ("saved", "odd"),
        [
            ({"a": torch.zeros(3), "b": torch.zeros(2)}, "a"),
            ({"a": torch.zeros(2)}, "b"),
            ({"a": torch.zeros(2), "b": torch.zeros(2), "extra": torch.zeros(1)}, "extra"),
            ({"a": torch.zeros(2), "b": torch.zeros(1, 2)}, "b"),
        ],
    )
    def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_written(self, saved, odd):
        live = {"a": torch.ones(2), "b": torch.ones(2)}
        with pytest.raises(UserError, match=f"somewhere .*{odd} \\["):
            checkpoint.restore(live, saved, "somewhere")
        assert all((t == 1).all() for t in live.values())
