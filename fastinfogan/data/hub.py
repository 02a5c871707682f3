"""Image sets read by Hugging Face's `datasets`: from its hub, its cache, or a local path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .decoding import check_decodable
from .encoded import EncodedImages
from .reading import Reading
from .splits import Images, Labels, Split, expanded, held_out, opened
from .streaming import Streamed

if TYPE_CHECKING:
    from datasets import Dataset

_LABELS = ("label", "labels", "fine_label")


def local(reference: str) -> tuple[Path, str] | None:
    """Split PATH[:CONFIG] into the path and the configuration; None for an ID of the hub."""
    whole, (path, _, config) = expanded(reference), reference.rpartition(":")
    if whole.exists():
        return whole, ""
    part = expanded(path)
    return (part, config) if path and part.exists() else None


def read_hub(reference: str, reading: Reading, kind: str = "hf") -> dict[Split, Images]:
    """Read the set that ID[:CONFIG] or PATH[:CONFIG] names, cropped to squares and scaled.

    A path is what `save_to_disk` wrote, a .parquet file, or a folder that `load_dataset` takes; of
    `kind` "parquet" a .parquet file, a folder of such files, or a pattern of their names. The
    images are the first column of the Image feature, or of image bytes; labels, for evaluation
    alone, a column label, labels or fine_label of classes or integers, else the first of classes;
    `reading.factors` names columns of known factors. The splits are train and test; without test,
    every tenth image of train, or of the only split, is held out.
    """
    check_decodable(reading.channels)
    where = f"--data {kind}:{reference}"
    splits = _parquet(reference, where) if kind == "parquet" else _load(reference, where)
    name = "train" if "train" in splits else next(iter(splits))
    if name != "train" and len(splits) > 1:
        raise UserError(f"{where}: expected a split train, got {', '.join(splits)}")
    train = HubImages(splits[name], reading, where)
    labels, factors = train.labels(), train.factors()
    if name == "test" or "test" not in splits:
        loaded = held_out(train, labels, reading.stream, factors=factors)
    else:
        test = HubImages(splits["test"], reading, where, train)
        loaded = opened(
            *(Streamed(train, None), Streamed(test, None)),
            *((labels, test.labels()), reading.stream),
            factors=(factors, test.factors()),
        )
    names = tuple(train.factor_columns)
    return {
        split: images.with_facts(train.notes, train.classes(), names)
        for split, images in loaded.items()
    }


def _datasets(where: str) -> Any:
    """Import Hugging Face's library. A folder of its name in the working directory is not it."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{where}: needs Hugging Face datasets; pip install 'fastinfogan[hf]'"
        ) from None
    if not hasattr(datasets, "load_dataset"):
        place = next(iter(getattr(datasets, "__path__", [])), "another module of that name")
        raise UserError(
            f"{where}: needs Hugging Face datasets, but import finds {place}; pip install "
            "'fastinfogan[hf]', or rename that folder"
        )
    return datasets


def _parquet(reference: str, where: str) -> dict[str, Dataset]:
    """Return the splits of .parquet files, by names that begin with train and test, else one."""
    path = expanded(reference)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(f for f in path.rglob("*.parquet") if not f.name.startswith("."))
    else:
        files = sorted(f for f in path.parent.glob(path.name) if f.is_file())
    if not files:
        raise UserError(f"{where}: no .parquet file there; expected a file, a folder or a pattern")
    names: dict[str, list[str]] = {}
    for file in files:
        begin = next((s for s in ("train", "test") if file.name.lower().startswith(s)), "")
        names.setdefault(begin, []).append(str(file))
    if "train" not in names or "" in names:
        names = {"train": [str(file) for file in files]}
    datasets = _datasets(where)
    try:
        return dict(datasets.load_dataset("parquet", data_files=names))
    except Exception as error:  # of pyarrow, fsspec
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{where}: cannot be read ({reason})") from None


def _load(reference: str, where: str) -> dict[str, Dataset]:
    datasets = _datasets(where)
    here = local(reference)
    try:
        if here is None:
            name, _, config = reference.partition(":")
            loaded: Any = datasets.load_dataset(name, config or None)
        elif any((here[0] / f).is_file() for f in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(here[0]))
        elif here[0].is_file():
            loaded = datasets.load_dataset("parquet", data_files=str(here[0]))
        else:
            loaded = datasets.load_dataset(str(here[0]), here[1] or None)
    except Exception as error:  # of the hub, the network, pyarrow, fsspec
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where}: cannot be loaded ({reason}); expected the ID of a set on huggingface.co, "
            "with :CONFIG where it has several, or the path of a saved one"
        ) from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


class HubImages(EncodedImages):
    """The images of a dataset, decoded, cropped and resized when they are read."""

    def __init__(
        self,
        dataset: Dataset,
        reading: Reading,
        where: str,
        like: EncodedImages | None = None,
    ) -> None:
        import datasets

        columns = dataset.features
        kind = datasets.Image
        column = next((name for name, f in columns.items() if isinstance(f, kind)), None)
        if column is None:
            column = next((n for n, f in columns.items() if _holds_bytes(f)), None)
        if column is None:
            raise UserError(f"{where}: no column of images, got columns {', '.join(columns)}")
        super().__init__(len(dataset), reading)
        self._where, self._column, self._dataset = where, column, dataset
        # as bytes, so that a damaged image is found one by one
        files = dataset.select_columns([column])
        if isinstance(columns[column], kind):
            files = files.cast_column(column, kind(decode=False))
        self._files = files.with_format(None)
        self.factor_columns = tuple(n.strip() for n in reading.factors.split(",") if n.strip())
        self.prepare(like)

    def content(self, file: int) -> Path | bytes:
        """Return an image's bytes, or the path of its file."""
        cell = self._files[file][self._column]
        if cell is None:
            raise ValueError("it is null")
        if isinstance(cell, bytes):
            return cell
        content = cell["bytes"]
        return Path(cell["path"]) if content is None else bytes(content)

    def name(self, file: int) -> str:
        """Return the set with the number of the image."""
        return f"{self._where}: image {file}"

    def _label_column(self) -> str | None:
        import datasets

        columns = self._dataset.features
        classes = [n for n, f in columns.items() if isinstance(f, datasets.ClassLabel)]
        whole = [n for n in _LABELS if "int" in str(getattr(columns.get(n), "dtype", ""))]
        return next((n for n in (*whole, *classes)), None)

    def labels(self) -> Labels | None:
        """Return the classes [N], or None where there are none, or not of every image."""
        column = self._label_column()
        if column is None:
            return None
        labels = self._dataset.select_columns([column]).with_format("numpy")[:][column]
        if not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
            return None  # some are null, or -1, the hub's "not told"
        return self.of_rows(np.asarray(labels))

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, where the set gives them."""
        column = self._label_column()
        names = getattr(self._dataset.features[column], "names", None) if column else None
        return tuple(names or ())

    def factors(self) -> NDArray[np.float64] | None:
        """Return the columns of known factors as numbers [N, K]. Raises UserError."""
        if not self.factor_columns:
            return None
        names = [name.partition(":")[0] for name in self.factor_columns]
        missing = [name for name in names if name not in self._dataset.features]
        if missing:
            there = ", ".join(self._dataset.features)
            raise UserError(f"{self._where}: --factors: no column {missing[0]}, got {there}")
        table = self._dataset.select_columns(names).with_format(None)[:]
        try:
            columns = [np.array(table[name], np.float64) for name in names]
        except (TypeError, ValueError):
            raise UserError(
                f"{self._where}: --factors: expected columns of numbers, got {', '.join(names)}"
            ) from None
        return self.of_rows(np.stack(columns, 1))


def _holds_bytes(feature: Any) -> bool:
    """Return True if a column has bytes, or the structs that the hub's images are in Parquet."""
    if isinstance(feature, dict):
        return "bytes" in feature and "path" in feature
    return getattr(feature, "dtype", "") in ("binary", "large_binary")
