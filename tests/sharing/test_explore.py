"""The page draws what the networks draw; every control works; nothing leaves the browser."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import EVALUATION, SPEC, untrained
from PIL import Image

from fastinfogan import explore
from fastinfogan.data import from_range
from fastinfogan.latents import Categorical
from fastinfogan.sharing import graphs, page
from fastinfogan.sharing.description import describe

pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[2]
MODULES = ROOT / ".ci" / "node_modules"


class Pages:
    """Pages of the untrained networks, their ONNX files, and the facts behind them."""

    def __init__(self, folder: Path, channels: int) -> None:
        self.networks = untrained(channels)
        self.facts = describe(self.networks, EVALUATION, title="a <b> & c", step=7)
        self.models = {
            part: graphs.to_onnx(graphs.graph(part, self.networks), self.facts, "full")
            for part in ("generator", "reader")
        }
        self.file = folder / "explore.html"
        self.folder = folder / "site"
        files = (self.models["generator"], self.models["reader"])
        self.file.write_bytes(page.single_page(self.facts, *files))
        page.write_folder(self.folder, self.facts, *files)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return Pages(tmp_path_factory.mktemp("pages"), channels=1)


@pytest.mark.slow
def test_the_page_loads_nothing_from_elsewhere(pages: Pages):
    text = pages.file.read_text("utf-16")
    markup = re.sub(r"<script\b[^>]*>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?https?:", text)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", markup)
    assert "<title>a &lt;b&gt; &amp; c" in text


@pytest.mark.parametrize("length", [0, 1, 14, 15, 16, 1000])
def test_a_character_of_the_page_holds_15_bits(length: int):
    content = np.random.default_rng(length).bytes(length)
    text = page.as_text(content)
    assert len(text) == -(-8 * length // 15)
    number = 0
    for character in text:
        assert 0 <= ord(character) - page.FIRST < 2**15
        number = (number << 15) | (ord(character) - page.FIRST)
    assert (number >> (15 * len(text) - 8 * length)).to_bytes(length, "big") == content


def test_the_page_is_7_percent_larger_than_what_it_holds(pages: Pages):
    held = re.findall(r'data-bytes="(\d+)"', pages.file.read_text("utf-16"))
    code = 2 * sum(len(page._read(name)) for name in (*page._RUNTIME, "explore.css"))
    assert len(held) == 4
    assert pages.file.stat().st_size < 1.07 * sum(map(int, held)) + code + 20_000


def test_the_description_names_what_the_evaluation_knows(pages: Pages):
    shape, second, _, place, gaussian, turn = pages.facts["codes"]
    assert shape["labels"] == [2, None, 0, 1]
    assert second["labels"] is None
    assert place["dims"][0] == {"name": "place[0]", "factor": "slant", "rho": 0.96}
    assert place["dims"][1] == {"name": "place[1]", "factor": None, "rho": None}
    assert (place["low"], place["high"], place["marks"]) == (-2.5, 3.5, [-1, 2])
    assert (gaussian["low"], gaussian["high"], gaussian["marks"]) == (-3.5, 4.5, [-1.5, 2.5])
    assert turn["marks"] is None
    assert turn["dims"] == [{"name": "turn", "factor": "azimuth", "rho": 0.8}]


def test_a_folder_holds_the_page_its_networks_and_the_notice(pages: Pages):
    files = {path.name for path in pages.folder.iterdir()}
    assert {"index.html", "generator.onnx", "reader.onnx", "explore.js", "NOTICE.md"} <= files
    assert (pages.folder / "generator.onnx").read_bytes() == pages.models["generator"]
    text = (pages.folder / "index.html").read_text("utf-8")
    for source in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert source.startswith("data:") or (pages.folder / source).is_file(), source


def test_the_command_writes_one_file_and_says_how_large(small_run: Path, tmp_path: Path, capsys):
    out = tmp_path / "new" / "page.html"
    assert explore.main([str(small_run), "--out", str(out), "--no-reader"]) == 0
    assert f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB" in capsys.readouterr().out
    text = out.read_text("utf-16")
    assert 'id="part-generator"' in text
    assert 'id="part-reader"' not in text


def test_a_page_that_is_no_html_file_is_refused(tmp_path: Path, capsys):
    assert explore.main([str(tmp_path), "--out", "page.png"]) == 2
    assert "expected an .html file" in capsys.readouterr().err


# In a browser


def browser_and_modules() -> tuple[str, Path]:
    """Return Chromium and the folder with playwright-core; else skip the test, or fail in CI."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    node = shutil.which("node")
    modules = Path(os.environ.get("NODE_PATH") or MODULES)
    missing = [
        name
        for name, there in (
            ("chromium (apt-get install chromium)", chromium),
            ("node (apt-get install nodejs npm)", node),
            (
                "playwright-core (npm install --prefix .ci playwright-core@1.65.1)",
                (modules / "playwright-core").is_dir(),
            ),
        )
        if not there
    ]
    if missing:
        reason = f"needs {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    assert chromium is not None
    return chromium, modules


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Yield the address of a folder on a web server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()
        thread.join()


def drive(address: str, picture: Path, screenshots: Path) -> dict[str, Any]:
    chromium, modules = browser_and_modules()
    script = ROOT / "tests" / "sharing" / "explore.cjs"
    done = subprocess.run(
        ["node", str(script), address, chromium, str(picture), str(screenshots)],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def outputs(model: bytes, name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """Return what onnxruntime computes in Python."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: value.astype(np.float32)}), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_browser_draws_what_onnxruntime_draws_and_every_control_works(
    channels: int, tmp_path: Path
):
    browser_and_modules()
    made = Pages(tmp_path, channels)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    if channels == 1:
        pixels[:] = pixels[:, :, :1]
    picture = tmp_path / "picture.png"
    Image.fromarray(pixels).save(picture)
    if channels == 1:
        seen = drive(made.file.as_uri(), picture, tmp_path / "page")
        assert seen["requests"][0] == made.file.as_uri()
    else:
        with served(made.folder) as address:
            seen = drive(address, picture, tmp_path / "page")
        home = address.removesuffix("index.html")
        assert [r for r in seen["requests"] if not r.startswith((home, "blob:", "data:"))] == []
        seen["requests"] = seen["requests"][:1]
    # no error, and no request but for the page itself and what lies inside it
    assert seen["console"] == []
    assert [r for r in seen["requests"][1:] if not r.startswith(("blob:", "data:"))] == []
    # names for screen readers, and no sideways scrolling
    assert seen["unnamed"] == []
    assert [seen[f"overflow {width}"] for width in (1280, 390)] == [0, 0]

    # every control changed the picture, and each picture is onnxruntime's
    steps = seen["steps"]
    assert len(steps) == 15 + len([c for c in SPEC.codes if isinstance(c, Categorical)]) - 2
    before = seen["start"]
    for name, now in steps.items():
        assert now["input"] != before["input"], name
        assert now["output"] != before["output"], name
        expected = outputs(made.models["generator"], "latent", np.array([now["input"]]))["images"]
        np.testing.assert_allclose(now["output"], expected.ravel(), atol=1e-5, err_msg=name)
        assert now["json"]["latent"] == now["input"]
        before = now

    # seed 3 shows what `sample --seed 3` shows
    assert steps["seed"]["json"]["seed"] == 3
    drawn = SPEC.sample(1, seed=3)
    np.testing.assert_allclose(
        steps["seed"]["input"][: SPEC.noise], drawn.input[0, : SPEC.noise], rtol=1e-6, atol=1e-7
    )
    keys = [key for code in made.facts["codes"] for key in _keys(code)]
    assert list(seen["grids"]) == keys
    for key, (index, dim) in zip(keys, _targets(), strict=True):
        batch = SPEC.traverse(index, rows=5, seed=3, dim=dim)
        with torch.no_grad():
            images = made.networks.generator(batch.input)
        expected_pixels = from_range(images, made.networks.generator.image_range).numpy()
        shown = np.array(seen["grids"][key], np.uint8).reshape(-1, 8, 8, 4)[..., :channels]
        if key == "shape":  # in the order of the labels: 0, 1, 2, none
            shown = shown.reshape(5, 4, *shown.shape[1:])[:, np.argsort([2, 3, 0, 1])]
            shown = shown.reshape(-1, *shown.shape[2:])
        difference = np.abs(shown.astype(int) - expected_pixels)
        assert difference.max() <= 1, key  # a level, where 1e-5 lies on the edge between two
        assert (difference > 0).mean() < 0.01, key

    # the reader reads what onnxruntime reads, and its code can be shown
    image = pixels[..., :channels].transpose(2, 0, 1)[None] / 255
    reading = outputs(made.models["reader"], "images", image)
    for code in SPEC.names:
        np.testing.assert_allclose(seen["reading"][code], reading[code].ravel(), atol=1e-4)
    shape = int(reading["shape"].argmax())
    assert seen["afterReading"]["json"]["codes"]["shape"] == shape

    # the address holds the state
    assert f"shape={shape}" in seen["link"]
    np.testing.assert_allclose(seen["fromLink"]["input"], seen["afterReading"]["input"], atol=1e-4)


def _keys(code: dict[str, Any]) -> list[str]:
    return [dim["name"] for dim in code.get("dims", [])] or [code["name"]]


def _targets() -> list[tuple[int, int]]:
    return [(i, dim) for i, code in enumerate(SPEC.codes) for dim in range(code.dim)]
