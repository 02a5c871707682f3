"""Image sets read by Hugging Face's `datasets`: from its hub, its cache, or a local path."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from .decoding import UNREADABLE, check_decodable, square
from .splits import Images, Labels, Split, held_out, opened
from .streaming import Mode, Rows, Streamed

if TYPE_CHECKING:
    from datasets import Dataset

_LABELS = ("label", "labels", "fine_label")


def local(reference: str) -> tuple[Path, str] | None:
    """PATH[:CONFIG] as the path that is there, and the configuration; None for an ID of the hub."""
    whole, (path, _, config) = Path(reference).expanduser(), reference.rpartition(":")
    if whole.exists():
        return whole, ""
    part = Path(path).expanduser()
    return (part, config) if path and part.exists() else None


def read_hub(reference: str, image_size: int, channels: int, mode: Mode) -> dict[Split, Images]:
    """The set that ID[:CONFIG] or PATH[:CONFIG] names, cropped to squares and scaled.

    A path is what `save_to_disk` wrote, a .parquet file, or a folder that `load_dataset` takes. The
    images are the first column of the Image feature; labels, for evaluation alone, a column label,
    labels or fine_label of classes or integers, else the first of classes. The splits are train
    and test; without test, every tenth image of train, or of the only split, is held out.
    """
    check_decodable(channels)
    where = f"--data hf:{reference}"
    splits = _load(reference, where)
    name = "train" if "train" in splits else next(iter(splits))
    if name != "train" and len(splits) > 1:
        raise UserError(f"{where}: expected a split train, got {', '.join(splits)}")
    train = HubImages(splits[name], image_size, channels, where)
    if name == "test" or "test" not in splits:
        return held_out(train, train.labels(), mode)
    test = HubImages(splits["test"], image_size, channels, where)
    labels = (train.labels(), test.labels())
    return opened(Streamed(train, None), Streamed(test, None), labels, mode)


def _load(reference: str, where: str) -> dict[str, Dataset]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{where}: needs Hugging Face datasets; pip install 'fastinfogan[hf]'"
        ) from None
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


class HubImages:
    """The images of a dataset, decoded, cropped and resized when they are read."""

    slow = True
    on_disk = True

    def __init__(self, dataset: Dataset, image_size: int, channels: int, where: str) -> None:
        import datasets

        columns = dataset.features
        kind = datasets.Image
        column = next((name for name, f in columns.items() if isinstance(f, kind)), None)
        if column is None:
            raise UserError(f"{where}: no column of images, got columns {', '.join(columns)}")
        self.shape = (len(dataset), image_size, image_size, channels)
        self._where, self._column, self._dataset = where, column, dataset
        # as bytes, so that a damaged image is found one by one
        files = dataset.select_columns([column]).cast_column(column, kind(decode=False))
        self._files = files.with_format(None)

    def scatter(self) -> None:
        pass

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        files = self._files[rows.tolist()][self._column]
        for i, file in enumerate(files):
            try:
                if file is None:
                    raise ValueError("it is null")
                content = file["bytes"]
                with Image.open(file["path"] if content is None else io.BytesIO(content)) as image:
                    out[i] = square(image, self.shape[1], self.shape[3])
            except UNREADABLE as error:
                raise UserError(
                    f"{self._where}: image {rows[i]}: not a readable image ({error})"
                ) from None
        return out

    def labels(self) -> Labels | None:
        """The classes [N], or None where there are none, or not of every image."""
        import datasets

        columns = self._dataset.features
        classes = [n for n, f in columns.items() if isinstance(f, datasets.ClassLabel)]
        whole = [n for n in _LABELS if "int" in str(getattr(columns.get(n), "dtype", ""))]
        column = next((n for n in (*whole, *classes)), None)
        if column is None:
            return None
        labels = self._dataset.select_columns([column]).with_format("numpy")[:][column]
        if not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
            return None  # some are null, or -1, the hub's "not told"
        return np.asarray(labels)
