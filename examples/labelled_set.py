"""A labelled data set drawn from a trained run: images, labels and factors in one .npz file.

    python examples/labelled_set.py runs/mnist drawn.npz --count 10000

A label is the one that evaluation matched the image's category with (images of a category without
one are left out); without an evaluation it is the category. Factors are the continuous codes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import fastinfogan
from fastinfogan.data import from_range

DISCRETE = ("categorical", "bernoulli")


def draw(run: Path, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return images uint8 [N, H, W, C], labels [N], factors float32 [N, n] and factor_names [n]."""
    generator, _, spec = fastinfogan.load(run)
    images, batches = [], []
    for first in range(0, count, 500):
        batch = spec.sample(min(500, count - first), seed=seed, first_row=first)
        with torch.inference_mode():
            images.append(from_range(generator(batch.input), generator.image_range))
        batches.append(batch)
    arrays = {"images": torch.cat(images).numpy()}
    evaluation = run / "eval.json"
    scores = json.loads(evaluation.read_text("utf-8")) if evaluation.is_file() else {}
    codes = dict(zip(spec.names, spec.slots, strict=True))
    rows = slice(None)
    if categoricals := [name for name, slot in codes.items() if slot.code.kind == "categorical"]:
        column = codes[scores.get("code_scored") or categoricals[0]].target
        labels = torch.cat([batch.categorical[:, column] for batch in batches]).flatten().numpy()
        if matching := scores.get("matching"):
            labels = np.array([-1 if label is None else label for label in matching])[labels]
            rows = labels >= 0
        arrays["labels"] = labels
    if spec.n_cont:
        arrays["factors"] = torch.cat([batch.continuous for batch in batches]).numpy()
    arrays = {name: array[rows] for name, array in arrays.items()}
    real = [(n, s.code.dim) for n, s in codes.items() if s.code.kind not in DISCRETE]
    return arrays | {"factor_names": np.array([f"{n}[{i}]" for n, dim in real for i in range(dim)])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw a labelled data set from a trained run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    made = draw(args.run, args.count, args.seed)
    np.savez_compressed(args.out, **made)
    print(f"wrote {args.out}: {len(made['images']):,} images")
