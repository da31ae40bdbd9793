"""A stored run: a run directory opened for reading, once, by whoever needs anything of it.

Also a folder of shards alone. Of `RUN/rollouts` the shards are read, and what the run says of them
(`run.yaml`, manifest, summary) is found one folder above. Every part is loaded when it is first
asked for; a part that is not there, not readable, or not whole is an error of its own
(`FileAbsent`, `FileUnreadable`, `FileTorn`), and never an empty answer.

Not owned here: writing (run_directory).
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.compute as pc

from gym_ray.errors import ConfigError, FileAbsent
from gym_ray.store.dataset_files import MANIFEST_FILE, dataset_files, require_one_dataset
from gym_ray.store.follower import Follower
from gym_ray.store.index import Index, count_by_status
from gym_ray.store.places import open_path, parquet_file
from gym_ray.store.reading import Rollouts
from gym_ray.store.rollout_page import PLAIN_COLUMNS, RolloutFilter, RolloutPage, page_of
from gym_ray.store.stored_config import CONFIG_FILE, Licenses, StoredConfig
from gym_ray.store.stored_text import stored_object

#: Times a question is asked anew because a compaction took away files that were to be read.
_TRIES = 5

_Answer = TypeVar("_Answer")


class StoredRun:
    """A run on disk, or in an object store, complete or not.

    Attributes:
        path: what was named: the run directory, or a folder of shards.
        home: where `run.yaml` and the manifest are, if they are anywhere.

    Example:
        >>> run = StoredRun.open("runs/demo")                     # doctest: +SKIP
        >>> run.counts(), run.facts["model_fingerprint"], run.page(limit=20).table
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        above = path.parent / CONFIG_FILE
        is_inside = path.name == "rollouts" and not (path / CONFIG_FILE).exists()
        self.home = path.parent if is_inside and above.exists() else path
        self._index = Index.read([])
        self._checked: list[Path] = []

    @classmethod
    def open(cls, name: str | Path | StoredRun) -> StoredRun:
        """Open what a path or URL names; a run that is open already stays as it is.

        Raises:
            ConfigError: no such folder, or nothing here can read such URLs.
        """
        if isinstance(name, StoredRun):
            return name
        path = open_path(name)
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder; name the output of a collection")
        return cls(path)

    # What is said of the run.

    @property
    def config_file(self) -> Path:
        return self.home / CONFIG_FILE

    @property
    def manifest_file(self) -> Path:
        return self.home / MANIFEST_FILE

    @property
    def summary_file(self) -> Path:
        return self.home / "summary.json"

    @functools.cached_property
    def config(self) -> StoredConfig:
        """What `run.yaml` says.

        Raises:
            FileAbsent, FileUnreadable, FileTorn: nothing that can be relied on.
        """
        return StoredConfig.read(self.home)

    def config_if_there(self) -> StoredConfig | None:
        """The same, and None where there is no `run.yaml`: for what makes sense without it.

        Whoever asks tells its user what cannot be known for that.

        Raises:
            FileUnreadable, FileTorn: there is one, but nothing that can be relied on.
        """
        try:
            return self.config
        except FileAbsent:
            return None

    @property
    def facts(self) -> Mapping[str, Any]:
        """The run's ID, kind, versions, fingerprint of the model.

        Raises:
            StoredFileError: see `config`.
        """
        return self.config.facts

    def licenses(self, environments: Iterable[str]) -> Licenses:
        """Licenses that these environments declare; none where there is no `run.yaml`.

        Raises:
            FileUnreadable, FileTorn: see `config_if_there`.
        """
        config = self.config_if_there()
        if config is None:
            return {name: {} for name in environments}
        return config.licenses(environments)

    @functools.cached_property
    def summary(self) -> Mapping[str, Any]:
        """What `summary.json` says.

        Raises:
            StoredFileError: nothing that can be relied on.
        """
        return stored_object(self.summary_file)

    @functools.cached_property
    def expected(self) -> Mapping[str, int]:
        """Rollouts of the manifest by environment; rows routed nowhere are under "".

        Raises:
            FileAbsent: there is no manifest, as of a folder of shards alone.
            FileTorn: there is one, but not whole.
        """
        if not self.manifest_file.exists():
            raise FileAbsent(f"{self.manifest_file}: no such file; restore it from a copy")
        counted: Counter[str] = Counter()
        file = parquet_file(self.manifest_file)
        for batch in file.iter_batches(batch_size=8192, columns=["environment"]):
            for entry in pc.value_counts(batch.column("environment")).to_pylist():
                counted[entry["values"]] += entry["counts"]
        return counted

    def pending(self, stored: int) -> int:
        """Rollouts that lack by the manifest, or by the summary; 0 where there is neither.

        Args:
            stored: how many there are.

        Raises:
            StoredFileError: what would say it is there, but not whole.
        """
        if self.manifest_file.exists():
            return max(0, int(parquet_file(self.manifest_file).metadata.num_rows) - stored)
        try:
            return int(self.summary.get("pending") or 0)
        except FileAbsent:
            return 0

    # What has been collected.

    def files(self) -> list[Path]:
        """Its Parquet files of rollouts, looked at once.

        Raises:
            ConfigError: it holds none, or rollouts of several runs under one ID.
            FileTorn: one is not whole.
        """
        files = dataset_files(self.path)
        if not files and not self.config_file.exists():
            raise ConfigError(f"{self.path}: holds no rollouts; name the output of a collection")
        if files != self._checked:
            require_one_dataset(self.path, files)
            self._checked = files
        return files

    def index(self) -> Index:
        """What there is now. Of files that were read before nothing is read again."""
        return self.ask(lambda index: index)

    def ask(self, question: Callable[[Index], _Answer]) -> _Answer:
        """Answer a question about what there is now, whose answer may take files that are read.

        It is asked anew where a compaction has taken some of them away meanwhile.
        """
        for _ in range(_TRIES - 1):
            with contextlib.suppress(FileNotFoundError):
                return question(self._now())
        return question(self._now())

    def _now(self) -> Index:
        self._index = self._index.updated(dataset_files(self.path))
        return self._index

    def rollouts(
        self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
    ) -> Rollouts:
        """All of them; see `read_rollouts`."""
        self.files()
        return Rollouts(self.index(), columns, filter)

    def counts(self) -> dict[str, int]:
        """Rollouts by status, and those that are pending."""
        table = self.index().table
        return {**count_by_status(table), "pending": self.pending(len(table))}

    def page(
        self,
        filter: RolloutFilter | None = None,
        *,
        columns: Sequence[str] = PLAIN_COLUMNS,
        offset: int = 0,
        limit: int = 100,
    ) -> RolloutPage:
        """Some rollouts in dataset order. While a run is written, their numbers move.

        Args:
            filter: which; all by default.
            columns: to read; by default all but those with a value per token.
            offset: how many to pass over.
            limit: how many at most.
        """
        wanted = filter or RolloutFilter()
        return self.ask(lambda index: page_of(index, wanted, columns, offset, limit))

    def follow(self, columns: Sequence[str] = PLAIN_COLUMNS) -> Follower:
        """What there is, and from then on what has become durable, told by its `updates`."""
        return Follower(self.ask, columns)


def without_config(where: str, missing: str) -> str:
    """What a command says that goes on without `run.yaml`."""
    return f"{where} has no {CONFIG_FILE}, so there is nothing to know about {missing}"


def read_rollouts(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    filter: pc.Expression | None = None,
) -> Rollouts:
    """Open the dataset of a run directory, complete or not.

    Args:
        path: a run directory, or a folder of Parquet shards, here or in an object store.
        columns: read these alone, as Arrow tables.
        filter: keep the rollouts for which it is true. Of a rollout stored twice the copy that
            counts is judged.

    Example:
        >>> import pyarrow.compute as pc
        >>> read_rollouts(                                        # doctest: +SKIP
        ...     "runs/demo", columns=["prompt", "response"], filter=pc.field("reward") >= 0.8
        ... ).to_arrow()

    Raises:
        ConfigError: nothing there, it holds no rollouts, or a column is none of a rollout's.
    """
    return StoredRun.open(path).rollouts(columns, filter)
