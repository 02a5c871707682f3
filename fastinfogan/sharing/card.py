"""A run saved for others: weights, a model card filled from its own figures, a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..atomic import parse_json, read_text, write_atomically
from ..evaluation import pictures
from ..runs.folder import RunDir, load_all
from ..runs.hub import save_networks
from . import graphs, page
from .description import describe, read_evaluation

PICTURE = "codes.png"


def save_run(run: Path, folder: Path, *, onnx: bool = False, with_page: bool = False) -> list[str]:
    """Write a run's newest checkpoint as a folder for others; return the names of its files.

    Args:
        run: the run's folder.
        folder: where to write; created where it is missing.
        onnx: add generator.onnx and reader.onnx.
        with_page: add index.html, the page of `fastinfogan explore`.
    """
    networks, config, checkpoint = load_all(run)
    evaluation = read_evaluation(RunDir(run), checkpoint.step)
    facts = describe(networks, evaluation, title=config.preset, step=checkpoint.step)
    options = {
        "networks": config.adversarial.networks,
        "image_size": config.data.image_size,
        "channels": config.data.channels,
        "spectral_norm": config.adversarial.spectral_norm,
        "q_trunk": config.adversarial.q_trunk,
        "preset": config.preset,
        "step": checkpoint.step,
        "matching": facts["matching"],
    }
    save_networks(folder, networks, options)
    tiles = [
        pictures.traversal(networks.generator, networks.spec, i)
        for i in range(len(networks.spec.codes))
    ]
    pictures.save(pictures.stack(tiles), folder / PICTURE)
    files = ["model.safetensors", "config.json", PICTURE, "README.md"]
    parts: tuple[graphs.Part, ...] = ("generator", "reader")
    if onnx:
        for part in parts:
            model = graphs.to_onnx(graphs.graph(part, networks), facts)
            write_atomically(folder / f"{part}.onnx", model)
            files.append(f"{part}.onnx")
    if with_page:
        generator, reader = (graphs.for_page(networks, facts, part) for part in parts)
        write_atomically(folder / "index.html", page.single_page(facts, generator, reader))
        files.append("index.html")
    environment = _read_json(RunDir(run).environment)
    write_atomically(
        folder / "README.md", card(facts, evaluation, environment, _public(config.data.data))
    )
    return files


def card(
    facts: dict[str, Any], evaluation: dict[str, Any], environment: dict[str, Any], data: str
) -> str:
    """Return the model card: Markdown with the hub's header."""
    image = facts["image"]
    codes = ", ".join(f"{code['name']} ({code['kind']})" for code in facts["codes"])
    rows = [
        ("data", data),
        ("updates", f"{facts['step']:,}"),
        ("images", f"{image['width']}×{image['height']}, {image['channels']} channel(s)"),
        ("codes", codes),
    ]
    accuracy = evaluation.get("code_accuracy")
    if isinstance(accuracy, float):
        labels = f"{evaluation.get('code_scored')} sorts {accuracy:.1%} of the test images"
        rows.append(("code accuracy", f"{labels} by their label; no label was seen in training"))
    frechet, floor = evaluation.get("frechet"), evaluation.get("frechet_floor")
    if isinstance(frechet, float):
        against = f"; real against real: {floor:.1f}" if isinstance(floor, float) else ""
        features = evaluation.get("frechet_features")
        rows.append(("Fréchet distance", f"{frechet:.1f} in features of {features}{against}"))
    for key in ("device", "precision"):
        if key in environment:
            rows.append((key, str(environment[key])))
    rows += [(name, number) for name, number in facts["versions"].items()]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    shape = [16, image["channels"], image["height"], image["width"]]
    return f"""---
library_name: fastinfogan
pipeline_tag: unconditional-image-generation
tags:
- infogan
- gan
- disentanglement
---

# {facts["title"]}, an InfoGAN

![Each block varies one code; a row keeps its noise]({PICTURE})

| | |
|---|---|
{table}

```python
import fastinfogan

generator, discriminator, spec = fastinfogan.load("hf:USER/NAME")  # or the path of this folder
images = generator(spec.sample(16).input)  # {shape}
logit, code = discriminator(images)
```

The method is InfoGAN (Chen et al. 2016, [arXiv 1606.03657](https://arxiv.org/abs/1606.03657)).
"""


def space_card(title: str) -> str:
    """Return the README of a static space that shows the page."""
    return f"""---
title: {json.dumps(title)}
sdk: static
app_file: index.html
pinned: false
---

An InfoGAN's codes as controls. The page runs in the browser; nothing is sent anywhere.
"""


def _public(data: str) -> str:
    """Return a data specification without its path, which is nobody else's concern."""
    kind, colon, place = data.partition(":")
    on_the_hub = kind == "hf" and not place.startswith(("/", ".", "~"))
    return data if not colon or on_the_hub else f"images of its own ({kind})"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_text(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
