"""Image sets on a hub that are read while training: row group by row group of Parquet files.

A Parquet file is a sequence of row groups. Its footer gives their places, so that one is fetched
by its range of bytes. A single row cannot be: the unit of what is fetched is the row group. So the
order of an epoch is a permutation of row groups, and one of rows within windows of some groups
(`sampler.WindowOrder`). Nothing is written to disk.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import weakref
from collections.abc import Sequence
from functools import lru_cache
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from . import columns
from .encoded import EncodedImages
from .reading import Reading
from .splits import Images, Labels, Split, open_both, progress_bar
from .streaming import HELD_OUT_EVERY, Grouped, Mode, Rows, Streamed, evenly, in_whole, split_size

TEST_IMAGES = 10_000  # that are held out, in whole row groups; evaluation reads no more
SPREAD_GROUPS = 8  # row groups that a sample of the set is taken from
THREADS = 4  # that fetch row groups
FOOTER_THREADS = 16
COPIES = 2  # of a set that `datasets` keeps on the disk: the files, and what it makes of them
_PROTOCOL = "hf://"


class RowGroup(NamedTuple):
    """One row group of a file."""

    file: int
    number: int  # in its file
    rows: int
    nbytes: int  # of the column of images, unpacked


class Files:
    """The Parquet files of one split, with their footers."""

    def __init__(self, urls: Sequence[str]) -> None:
        import fsspec

        self.system, _ = fsspec.core.url_to_fs(urls[0])
        self.paths = [str(self.system._strip_protocol(url)) for url in urls]
        self.footers = []
        threads, n = min(FOOTER_THREADS, len(urls)), len(urls)
        with ThreadPool(threads) as pool, progress_bar(n, "reading footers", "files") as bar:
            for footer in pool.imap(self._footer, self.paths):
                self.footers.append(footer)
                bar.update()

    def _footer(self, path: str) -> Any:
        import pyarrow.parquet as pq

        with self._open(path) as file:
            return pq.ParquetFile(file).metadata

    def _open(self, path: str) -> Any:
        return self.system.open(path, "rb", cache_type="none")  # each read is one request

    @property
    def schema(self) -> Any:
        """The Arrow schema of the first file."""
        return self.footers[0].schema.to_arrow_schema()

    @property
    def digest(self) -> str:
        """A hash that changes with any byte of the files: of the hub's own hashes of them."""
        facts = []
        for path in self.paths:
            info = self.system.info(path)
            facts.append((path.rpartition("/")[2], info["size"], info.get("blob_id")))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def groups(self, column: str) -> list[RowGroup]:
        """Return all row groups. Those without rows are left out."""
        groups = []
        for file, footer in enumerate(self.footers):
            for index in range(footer.num_row_groups):
                group = footer.row_group(index)
                chunks = [group.column(i) for i in range(group.num_columns)]
                nbytes = sum(
                    chunk.total_uncompressed_size
                    for chunk in chunks
                    if chunk.path_in_schema.partition(".")[0] == column
                )
                if group.num_rows:
                    groups.append(RowGroup(file, index, group.num_rows, nbytes))
        return groups

    def read(self, group: RowGroup, names: list[str]) -> Any:
        """Return columns of a row group as a pyarrow table: a request for each."""
        import pyarrow.parquet as pq

        with self._open(self.paths[group.file]) as file:
            # pyarrow's own threads would not survive the fork of a worker
            parquet = pq.ParquetFile(file, metadata=self.footers[group.file], pre_buffer=False)
            return parquet.read_row_group(group.number, columns=names, use_threads=False)


class RowGroups(EncodedImages, Grouped):
    """The images of some row groups; rows are those of the first group, of the second, …

    `held_out`: every tenth row of all, or the others; None: all of them.
    """

    def __init__(
        self,
        files: Files,
        groups: Sequence[RowGroup],
        features: Any,
        reading: Reading,
        where: str,
        held_out: bool | None = None,
        like: EncodedImages | None = None,
    ) -> None:
        self.groups, self.held_out = list(groups), held_out
        # The first row of each group, among all rows and among those of this split.
        self._first = np.cumsum([0, *(group.rows for group in groups)])
        self._start = np.array([split_size(row, held_out) for row in self._first.tolist()])
        super().__init__(int(self._start[-1]), reading)
        self.source, self._where, self._features = files, where, features
        self._column = columns.image_column(features, where)
        self.group_sizes = np.diff(self._start)
        self.group_bytes = np.array([group.nbytes for group in groups], np.int64)
        self._held: dict[int, Any] = {}  # arrays of the image column, the latest used last
        self._coming: dict[int, AsyncResult[Any]] = {}
        self._pool: ThreadPool | None = None
        self.prepare(like)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": {}, "_coming": {}, "_pool": None}

    @property
    def digest(self) -> str:
        """A hash of the files and of the rows that are read of them."""
        return hashlib.sha256(
            repr((self.source.digest, self.groups, self.held_out)).encode()
        ).hexdigest()[:16]

    def spread(self, most: int) -> Rows:
        """Return up to `most` rows, of few row groups that are evenly spaced over the set."""
        n_groups = len(self.groups)
        few = min(SPREAD_GROUPS, n_groups)
        while True:
            chosen = evenly(n_groups, few)
            if few == n_groups or self.group_sizes[chosen].sum() >= most:
                break
            few = min(2 * few, n_groups)
        spans = [np.arange(self._start[g], self._start[g + 1]) for g in chosen]
        rows = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        return rows[evenly(len(rows), most)]

    def survey_rows(self, most: int) -> Rows:
        """Return the rows that tell of the set."""
        return self.spread(most)

    def content(self, file: int) -> bytes:
        """Return an image's bytes. Raises ValueError where there are none."""
        group, row = self._place_in_group(file)
        content = columns.cell_bytes(self._array(group)[row].as_py())
        if content is None:
            raise ValueError("a path without its bytes, which cannot be fetched")
        return content

    def name(self, file: int) -> str:
        """Return the set with the file, the row group and the row."""
        group, row = self._place_in_group(file)
        path = self.source.paths[self.groups[group].file].rpartition("/")[2]
        return f"{self._where}: {path}, row group {self.groups[group].number}, row {row}"

    def _place_in_group(self, row: int) -> tuple[int, int]:
        whole = in_whole(np.array([row]), self.held_out)
        group = int(np.searchsorted(self._first, whole, side="right")[0]) - 1
        return group, int(whole[0] - self._first[group])

    # Fetching

    def fetch_ahead(self, groups: Rows) -> None:
        """Fetch these row groups in threads, the first ones first; let go of all others.

        A run calls it, in the process that reads the images, with the groups of the current window
        and of the next one, which alone are held.
        """
        requested: list[int] = groups.tolist()
        for group in self._held.keys() - set(requested):
            del self._held[group]
        for group in requested:
            if group not in self._held and group not in self._coming:
                if self._pool is None:
                    self._pool = ThreadPool(THREADS)  # of daemons, which end with the process
                    weakref.finalize(self, self._pool.terminate).atexit = False
                self._coming[group] = self._pool.apply_async(self._fetch, (group,))

    def _array(self, group: int) -> Any:
        if group not in self._held:
            coming = self._coming.pop(group, None)
            array = self._fetch(group) if coming is None else coming.get()
            if coming is None and self._pool is None:  # not read ahead: one group at a time
                self._held.clear()
            self._held[group] = array
        return self._held[group]

    def _fetch(self, group: int) -> Any:
        try:
            table = self.source.read(self.groups[group], [self._column])
        except Exception as error:  # of the hub, the network, pyarrow
            path = self.source.paths[self.groups[group].file]
            raise UserError(f"{self._where}: {path} cannot be read ({reason(error)})") from None
        return table.column(0).combine_chunks()

    # Labels and factors

    def values(self, names: list[str]) -> dict[str, NDArray[Any]]:
        """Return columns of all rows. Each row group's part is fetched. Raises UserError."""
        try:
            with ThreadPool(THREADS) as pool:
                tables = pool.map(lambda group: self.source.read(group, names), self.groups)
        except Exception as error:
            raise UserError(f"{self._where}: cannot be read ({reason(error)})") from None
        groups = [
            in_whole(np.arange(start, stop), self.held_out) - first
            for start, stop, first in zip(
                self._start[:-1], self._start[1:], self._first[:-1], strict=True
            )
        ]
        return {
            name: np.concatenate(
                [
                    table.column(name).to_numpy()[rows]
                    for table, rows in zip(tables, groups, strict=True)
                ]
            )
            for name in names
        }

    def labels(self) -> Labels | None:
        """Return the classes [N], or None where there are none, or not of every image."""
        column = columns.label_column(self._features)
        return None if column is None else columns.labels_of(self.values([column])[column])


def reason(error: Exception) -> str:
    """Return the first line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@lru_cache(maxsize=4)
def _builder(identifier: str, config: str) -> Any:
    """Return what `datasets` knows of a set before it downloads it. Raises what it raises."""
    import datasets

    return datasets.load_dataset_builder(identifier, config or None)


def parquet_files(identifier: str, config: str) -> dict[str, list[str]] | None:
    """Return the addresses of each split's Parquet files; None where the set has other files."""
    files = _builder(identifier, config).config.data_files
    if not files or not all(
        str(url).startswith(_PROTOCOL) and str(url).endswith(".parquet")
        for urls in files.values()
        for url in urls
    ):
        return None
    return {str(split): [str(url) for url in urls] for split, urls in files.items()}


def is_remote(identifier: str, config: str, mode: Mode) -> bool:
    """Return True if a set of the hub is read from there while training.

    "always": where its files are Parquet. "auto": also only where it is not in the cache, and
    twice its size is more than the disk of that has free. Raises what `datasets` raises.
    """
    import datasets
    import fsspec

    if mode == "never" or datasets.config.HF_HUB_OFFLINE:
        return False
    splits = parquet_files(identifier, config)
    if splits is None or mode == "always":
        return splits is not None
    urls = [url for urls in splits.values() for url in urls]
    system, _ = fsspec.core.url_to_fs(urls[0])
    nbytes = sum(int(system.info(system._strip_protocol(url))["size"]) for url in urls)
    cache = Path(datasets.config.HF_DATASETS_CACHE).expanduser()
    while not cache.exists():
        cache = cache.parent
    if COPIES * nbytes <= shutil.disk_usage(cache).free:
        return False
    return not Path(_builder(identifier, config).cache_dir).is_dir()


def read_row_groups(
    identifier: str, config: str, reading: Reading, where: str
) -> dict[Split, Images]:
    """Open both splits of a set of the hub that is read while training, from its Parquet files.

    Columns and splits are those of `hub.read_hub`. The test images are those of up to 10,000 rows
    in evenly spaced row groups of the split test. Without one, every tenth row group is held out,
    up to as many images. Of a data set of fewer than ten row groups it is every tenth row.
    """
    import datasets

    if reading.skip_bad or reading.frames == "all":
        option = "--skip-bad" if reading.skip_bad else "--frames all"
        raise UserError(
            f"{where}: {option} would read all images first, and they are read while training, "
            "from the hub; download the set and give its folder, or --stream never"
        )
    splits = parquet_files(identifier, config)
    assert splits is not None
    name = "train" if "train" in splits else next(iter(splits))
    if name != "train" and len(splits) > 1:
        raise UserError(f"{where}: expected a split train, got {', '.join(splits)}")
    files = Files(splits[name])
    features = _builder(identifier, config).info.features
    features = features or datasets.Features.from_arrow_schema(files.schema)
    factors, names = columns.factor_columns(reading.factors, features, where)
    column = columns.image_column(features, where)
    groups = files.groups(column)
    held_out: tuple[bool, bool] | tuple[None, None] = (None, None)
    if name != "test" and "test" in splits:
        test_files = Files(splits["test"])
        test_groups = _some(test_files.groups(column))
    elif len(groups) < HELD_OUT_EVERY:
        test_files, test_groups, held_out = files, groups, (False, True)
    else:
        test_files, test_groups = files, _some(groups[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
        groups = [group for group in groups if group not in set(test_groups)]
    train = RowGroups(files, groups, features, reading, where, held_out[0])
    test = RowGroups(test_files, test_groups, features, reading, where, held_out[1], train)
    known = columns.factors_of(test.values(factors), where) if factors else None
    loaded = open_both(
        *(Streamed(train, None), Streamed(test, None)),
        *((None, test.labels()), "always"),
        factors=(None, known),
    )
    notes = [
        f"read from the hub while training: {len(groups)} row groups of {len(files.paths)} Parquet "
        f"files, {sum(g.nbytes for g in groups) / 1e9:.1f} GB; row groups come in random order, "
        "rows in random order within windows of some groups (docs/howto/large-sets.md)",
        *train.notes,
    ]
    classes = columns.class_names(features)
    return {s: images.with_facts(notes, classes, tuple(names)) for s, images in loaded.items()}


def _some(groups: Sequence[RowGroup]) -> list[RowGroup]:
    """Return evenly spaced row groups with at least `TEST_IMAGES` rows, or all."""
    mean = sum(group.rows for group in groups) / max(len(groups), 1)
    most = math.ceil(TEST_IMAGES / max(mean, 1))
    return [groups[i] for i in evenly(len(groups), most)]
