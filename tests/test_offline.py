"""Training, evaluation and sharing without a network."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import command, write_images

import fastinfogan
from fastinfogan import evaluate, export, sample, save, train

LOCAL = {"localhost", "127.0.0.1", "::1", "", None}


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the names and addresses beyond this machine that were used; each such call fails."""
    used: list[object] = []

    def check(host: object) -> None:
        if host not in LOCAL:
            used.append(host)
            raise OSError(f"no network: {host}")

    def method(name: str) -> None:
        inner = getattr(socket.socket, name)

        def call(self: socket.socket, *args: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(args[-1][0])
            return inner(self, *args)

        monkeypatch.setattr(socket.socket, name, call)

    def function(name: str) -> None:
        inner = getattr(socket, name)

        def call(host: object, *args: Any, **options: Any) -> Any:
            check(host)
            return inner(host, *args, **options)

        monkeypatch.setattr(socket, name, call)

    for name in ("connect", "connect_ex", "sendto"):
        method(name)
    for name in ("getaddrinfo", "gethostbyname"):
        function(name)
    return used


def test_the_guard_of_this_file_sees_connections_and_names(attempts):
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="no network"), socket.socket() as connection:
        connection.connect(("192.0.2.1", 80))
    with pytest.raises(OSError, match="no network"):
        urllib.request.urlopen("http://example.org", timeout=1)
    assert attempts == ["192.0.2.1", "192.0.2.1", "example.org"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    assert len(attempts) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread", "cpu_ranks")
def test_a_run_and_all_that_is_made_of_it_use_no_network(
    attempts: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))  # without what was downloaded before
    data, run = write_images(tmp_path / "images.npz"), tmp_path / "run"
    assert train.main(command(data, run, "--steps", "2")) == 0
    small: dict[str, Any] = {"image_size": 8, "batch_size": 16, "codes": "cat3,uniform"}
    small |= {"noise": 4, "threads": 1, "sample_every": 0}
    fastinfogan.fit("mnist", steps=2, out=tmp_path / "fit", data=f"npz:{data}", **small)
    assert evaluate.main([str(run)]) == 0
    assert sample.main([str(run), "--out", str(tmp_path / "grid.png")]) == 0
    assert export.main([str(run), "--out", str(tmp_path / "export")]) == 0
    assert save.main([str(run), str(tmp_path / "saved")]) == 0
    for folder in (run, tmp_path / "saved"):
        generator, _, spec = fastinfogan.load(folder)
        assert torch.isfinite(generator(spec.sample(2, seed=0).input)).all()
    assert attempts == []
