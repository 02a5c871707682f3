"""Image sets read by Hugging Face's `datasets`: from its hub, its cache, or a local path."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import parse_json, read_regular
from ..errors import UserError
from . import columns, row_groups
from .decoding import check_decodable
from .encoded import EncodedImages
from .reading import Reading
from .splits import Images, Labels, Split, expand_user, held_out, open_both
from .streaming import Mode, Streamed

if TYPE_CHECKING:
    from datasets import Dataset


def local(reference: str) -> tuple[Path, str] | None:
    """Split PATH[:CONFIG] into the path and the configuration; None for an ID of the hub."""
    whole, (path, _, config) = expand_user(reference), reference.rpartition(":")
    if whole.exists():
        return whole, ""
    part = expand_user(path)
    return (part, config) if path and part.exists() else None


def read_hub(reference: str, reading: Reading, kind: str = "hf") -> dict[Split, Images]:
    """Read the set that ID[:CONFIG] or PATH[:CONFIG] names, cropped to squares and scaled.

    A path is what `save_to_disk` wrote, a .parquet file, or a folder that `load_dataset` takes; of
    `kind` "parquet" a .parquet file, a folder of such files, or a pattern of their names. The
    images are the first column of the Image feature, or of image bytes; labels, for evaluation
    alone, a column label, labels or fine_label of classes or integers, else the first of classes;
    `reading.factors` names columns of known factors. The splits are train and test; without test,
    every tenth image of train, or of the only split, is held out. A set of the hub that is read
    from there while training is `row_groups.read_row_groups`.
    """
    check_decodable(reading.channels)
    where = f"--data {kind}:{reference}"
    if kind == "hf" and is_remote(reference, reading.remote):
        name, _, config = reference.partition(":")
        try:
            return row_groups.read_row_groups(name, config, reading, where)
        except UserError:
            raise
        except Exception as error:  # of the hub, the network, pyarrow
            raise _load_error(where, error) from None
    splits = _parquet(reference, where) if kind == "parquet" else _load(reference, where)
    folders = () if kind == "parquet" else _folders_of_images(reference, splits)
    name = "train" if "train" in splits else next(iter(splits))
    if name != "train" and len(splits) > 1:
        raise UserError(f"{where}: expected a split train, got {', '.join(splits)}")
    train = HubImages(splits[name], reading, where, folders)
    labels, factors = train.labels(), train.factors()
    if name == "test" or "test" not in splits:
        loaded = held_out(train, labels, reading.stream, factors=factors)
    else:
        test = HubImages(splits["test"], reading, where, folders, train)
        loaded = open_both(
            *(Streamed(train, None), Streamed(test, None)),
            *((labels, test.labels()), reading.stream),
            factors=(factors, test.factors()),
        )
    names = tuple(train.factor_names)
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
    if "DATASETS_VERBOSITY" not in os.environ:  # what it logs is also in what it raises
        datasets.logging.set_verbosity(logging.CRITICAL)
    return datasets


def _parquet(reference: str, where: str) -> dict[str, Dataset]:
    """Return the splits of .parquet files, by names that begin with train and test, else one."""
    path = expand_user(reference)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        below = (f for f in path.rglob("*.parquet") if not f.name.startswith("."))
        files = sorted(f for f in below if f.is_file())
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
        raise UserError(f"{where}: cannot be read ({row_groups.reason(error)})") from None


_SAVED = ("dataset_dict.json", "state.json")  # of several splits; of one
MAX_STATE = 2**24  # bytes of either


def _check_saved(folder: Path) -> None:
    """Raise ValueError where a saved set names files outside its folder, or holds a pipe."""
    for path in folder.rglob("*"):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"{path} is a pipe or a device")
        if path.name not in _SAVED:
            continue
        content = parse_json(read_regular(path, MAX_STATE))
        content = content if isinstance(content, dict) else {}
        files = [file.get("filename") for file in content.get("_data_files", ())]
        for name in (*files, *content.get("splits", ())):
            if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
                raise ValueError(f"{path} names {str(name)[:100]!r}, expected a name in its folder")


def _load(reference: str, where: str) -> dict[str, Dataset]:
    datasets = _datasets(where)
    here = local(reference)
    try:
        if here is None:
            name, _, config = reference.partition(":")
            loaded: Any = datasets.load_dataset(name, config or None)
        elif any((here[0] / f).is_file() for f in _SAVED):
            _check_saved(here[0])
            loaded = datasets.load_from_disk(str(here[0]))
        elif here[0].is_file():
            loaded = datasets.load_dataset("parquet", data_files=str(here[0]))
        else:
            loaded = datasets.load_dataset(str(here[0]), here[1] or None)
    except Exception as error:  # of the hub, the network, pyarrow, fsspec
        raise _load_error(where, error) from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def is_remote(reference: str, mode: Mode) -> bool:
    """Return True if the set ID[:CONFIG] is read from the hub while training. Raises UserError.

    "auto" is for a set that the disk has no space for; see `row_groups.is_remote`.
    """
    if mode == "never" or local(reference) is not None:
        return False
    where = f"--data hf:{reference}"
    _datasets(where)
    name, _, config = reference.partition(":")
    try:
        return row_groups.is_remote(name, config, mode)
    except Exception as error:  # of the hub, the network
        raise _load_error(where, error) from None


def _load_error(where: str, error: Exception) -> UserError:
    return UserError(
        f"{where}: cannot be loaded ({row_groups.reason(error)}); expected the ID of a set on "
        "huggingface.co, with :CONFIG where it has several, or the path of a saved one"
    )


def _folders_of_images(reference: str, splits: Mapping[str, Dataset]) -> tuple[Path, ...]:
    """Return the folders whose files the cells of a set may name in place of bytes.

    `save_to_disk` stores the bytes of files on this machine, and Parquet files of the hub hold
    them. Cells with a path alone are those of a folder of image files that the library listed
    itself, which lies where the user says or in the hub's cache. A table may hold any path.
    """
    here = local(reference)
    if here is None:
        if any(split.info.builder_name != "imagefolder" for split in splits.values()):
            return ()
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE)
    elif here[0].is_dir():
        folder = here[0]
    else:
        return ()
    return Path(os.path.abspath(folder)), folder.resolve()


class HubImages(EncodedImages):
    """The images of a dataset, decoded, cropped and resized when they are read."""

    def __init__(
        self,
        dataset: Dataset,
        reading: Reading,
        where: str,
        folders: Sequence[Path] = (),
        like: EncodedImages | None = None,
    ) -> None:
        import datasets

        column = columns.image_column(dataset.features, where)
        super().__init__(len(dataset), reading)
        self._where, self._column, self._dataset = where, column, dataset
        self._folders = tuple(folders)
        # as bytes, so that a damaged image is found one by one
        files = dataset.select_columns([column])
        if isinstance(dataset.features[column], datasets.Image):
            files = files.cast_column(column, datasets.Image(decode=False))
        self._files = files.with_format(None)
        self._factors, self.factor_names = columns.factor_columns(
            reading.factors, dataset.features, where
        )
        self.prepare(like)

    def content(self, file: int) -> Path | bytes:
        """Return an image's bytes, or the path of its file below one of the set's folders.

        Raises ValueError for another path: whoever wrote the set could name any file of the reader.
        """
        cell = self._files[file][self._column]
        content = columns.cell_bytes(cell)
        if content is not None:
            return content
        path = Path(os.path.abspath(cell["path"]))
        if not any(path.is_relative_to(folder) for folder in self._folders):
            raise ValueError("a path without its bytes, and not of a file below the set's folder")
        return path

    def name(self, file: int) -> str:
        """Return the set with the number of the image."""
        return f"{self._where}: image {file}"

    def labels(self) -> Labels | None:
        """Return the classes [N], or None where there are none, or not of every image."""
        column = columns.label_column(self._dataset.features)
        if column is None:
            return None
        values = self._dataset.select_columns([column]).with_format("numpy")[:][column]
        return self.of_rows(columns.labels_of(np.asarray(values)))

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, where the set gives them."""
        return columns.class_names(self._dataset.features)

    def factors(self) -> NDArray[np.float64] | None:
        """Return the columns of known factors as numbers [N, K]. Raises UserError."""
        if not self._factors:
            return None
        table = self._dataset.select_columns(self._factors).with_format(None)[:]
        values = {name: table[name] for name in self._factors}
        return self.of_rows(columns.factors_of(values, self._where))
