"""Files written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from fastinfogan.atomic import write_atomically
from fastinfogan.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWriteAtomically:
    @pytest.mark.parametrize("content", ["text ä\n", b"\x00\xff"])
    def test_it_writes_text_and_bytes(self, tmp_path, content):
        path = tmp_path / "x"
        write_atomically(path, "before")
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
        assert names(tmp_path) == ["x"]

    @pytest.mark.parametrize(("where", "name"), [(Path, "open"), (os, "fsync"), (Path, "replace")])
    def test_a_failure_leaves_the_old_content_and_no_temporary(
        self, tmp_path, monkeypatch, where, name
    ):
        path = tmp_path / "x"
        path.write_text("before")

        def fail(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(where, name, fail)
            with pytest.raises(UserError, match=r"cannot write .*x: No space left"):
                write_atomically(path, "after")
        assert path.read_text() == "before"
        assert names(tmp_path) == ["x"]
