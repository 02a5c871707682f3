"""The page that draws from a run in a browser: one HTML file, or a folder for a web server."""

from __future__ import annotations

import gzip
import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_atomically, writing

_WEB = files("fastinfogan") / "assets" / "web"
_RUNTIME = ("ort.wasm.min.js", "latents.js", "explore.js")
FIRST = 0x3400  # the first of 32,768 characters in a row that stand for 15 bits each
_WASM, _MJS = "ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.mjs"


def single_page(facts: dict[str, Any], generator: bytes, reader: bytes | None) -> bytes:
    """Return one HTML file with everything inside; it opens from a disk, without a network.

    The file is UTF-16 with a byte order mark, which browsers obey before any header or meta tag.
    A character there holds 15 bits in two bytes: 7 % more than the parts themselves, where base64
    takes 33 %.

    Args:
        facts: the run's description.
        generator, reader: the ONNX files; without a reader the page reads no pictures.
    """
    parts = {"mjs": _read(_MJS), "generator": generator}
    if reader is not None:
        parts["reader"] = reader
    packed = {"wasm": (_read(f"{_WASM}.gz"), "")}
    for name, part in parts.items():
        packed[name] = gzip.compress(_apart(part), 6, mtime=0), "apart"
    tags = [
        f'<script type="text/plain" id="part-{name}" data-bytes="{len(part)}" '
        f'data-order="{order}">{as_text(part)}</script>'
        for name, (part, order) in packed.items()
    ]
    style = f"<style>\n{_read('explore.css').decode()}</style>"
    scripts = [f"<script>{_script(_read(name).decode())}</script>" for name in _RUNTIME]
    return ("\ufeff" + _fill(facts, style, tags, scripts)).encode("utf-16-le")


def as_text(content: bytes) -> str:
    """Return bytes as characters from U+3400 on, 15 bits each; the last are padded with zeros."""
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    words = np.pad(bits, (0, -len(bits) % 15)).reshape(-1, 15)
    numbers = np.packbits(np.pad(words, ((0, 0), (1, 0))), axis=1).view(">u2").ravel()
    return (numbers + FIRST).astype("<u2").tobytes().decode("utf-16-le")


def _apart(content: bytes) -> bytes:
    """Return the bytes at even places, then those at odd ones.

    In weights of two bytes it parts exponents or signs, which compress, from digits, which do not.
    """
    return content[::2] + content[1::2]


def write_folder(
    folder: Path, facts: dict[str, Any], generator: bytes, reader: bytes | None
) -> None:
    """Write the page as a folder of files for a static web server; index.html is the page."""
    sources = {"wasm": _WASM, "mjs": _MJS, "generator": "generator.onnx"}
    contents = {
        _WASM: gzip.decompress(_read(f"{_WASM}.gz")),
        "generator.onnx": generator,
        **{name: _read(name) for name in (_MJS, *_RUNTIME, "explore.css", "NOTICE.md")},
    }
    if reader is not None:
        sources["reader"] = contents_name = "reader.onnx"
        contents[contents_name] = reader
    tags = [
        f'<script type="text/plain" id="part-{name}" data-src="{source}"></script>'
        for name, source in sources.items()
    ]
    scripts = [f'<script src="{name}"></script>' for name in _RUNTIME]
    page = _fill(facts, '<link rel="stylesheet" href="explore.css">', tags, scripts)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    write_atomically(folder / "index.html", page)


def _fill(facts: dict[str, Any], style: str, parts: list[str], scripts: list[str]) -> str:
    described = json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c")
    inside = {
        "{{TITLE}}": html.escape(facts["title"]),
        "{{STYLE}}": style,
        "{{PARTS}}": "\n".join(
            [f'<script type="application/json" id="facts-json">{described}</script>', *parts]
        ),
        "{{SCRIPTS}}": "\n".join(scripts),
    }
    page = _read("explore.html").decode()
    for mark, content in inside.items():
        page = page.replace(mark, content)
    return page


def _script(text: str) -> str:
    """Return text that cannot end the script element that holds it."""
    assert "<!--" not in text, "would start a comment in HTML"
    return text.replace("</", "<\\/")


def _read(name: str) -> bytes:
    return (_WEB / name).read_bytes()
