"""Rollouts read back: Arrow, or one by one. Works while a run is unfinished."""

from __future__ import annotations

import difflib
import importlib
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.conversation.card import counted
from gym_ray.conversation.html import frame, heading, paragraph, table_html
from gym_ray.conversation.overview import row_of, short_number
from gym_ray.errors import ConfigError
from gym_ray.rollout import Rollout
from gym_ray.store.index import Index, count_by_status
from gym_ray.store.places import parquet_file
from gym_ray.store.row_fetcher import RowFetcher
from gym_ray.store.rows import from_table
from gym_ray.store.schema import SCHEMA

if TYPE_CHECKING:
    import pandas
    import polars

_BATCH_ROWS = 1024
#: Rows that are kept of those around one that was asked for by its position.
_NEAR_ROWS = 256
#: Rows, and columns, of the table that a notebook shows.
_SHOWN_ROWS = 10
_SHOWN = ("task", "repeat", "environment", "status", "reward", "tokens", "asked", "said")
_ROW = "row number"


class Rollouts:
    """The rollouts of a run directory, each once, in dataset order.

    Iterating yields `Rollout` values and holds about a thousand of them at a time. `rollouts[0]`
    and `rollouts["ROLLOUT_ID"]` are single ones, `rollouts[10:20]` is `Rollouts` again.

    Example:
        >>> rollouts = read_rollouts("runs/demo")                 # doctest: +SKIP
        >>> rollouts[0].show()                                    # doctest: +SKIP
        >>> for rollout in rollouts:                              # doctest: +SKIP
        ...     print(rollout.reward, rollout.token_ids.shape)
    """

    def __init__(
        self,
        index: Index,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
    ) -> None:
        self._columns = None if columns is None else checked_columns(columns)
        self._index = index if filter is None else _filtered(index, filter)
        self._near: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return len(self._index.table)

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Rollout: ...

    @overload
    def __getitem__(self, key: slice) -> Rollouts: ...

    def __getitem__(self, key: SupportsIndex | str | slice) -> Rollout | Rollouts:
        """One of them, by its position or its `rollout_id`, or a range of them.

        Raises:
            IndexError: there are not so many.
            KeyError: none has this ID.
            ConfigError: only some columns are read, which make no rollout.
        """
        if isinstance(key, slice):
            return Rollouts(self._index.only(key), self._columns)
        self._require_all_columns()
        if isinstance(key, str):
            position: int = pc.index(self._index.table["rollout_id"], key).as_py()
            if position < 0:
                raise KeyError(f"none of the {len(self)} rollouts has the rollout_id {key!r}")
        else:
            given = operator.index(key)
            position = given + len(self) if given < 0 else given
            if not 0 <= position < len(self):
                raise IndexError(f"there are {len(self)} rollouts, and none at {given}")
        return self._at(position)

    def __iter__(self) -> Iterator[Rollout]:
        self._require_all_columns()
        for rows in self.tables():
            yield from from_table(rows)

    def __repr__(self) -> str:
        columns = "" if self._columns is None else f"; columns {', '.join(self._columns)}"
        return f"<{self._counts()}{columns}>"

    def _repr_html_(self) -> str:
        parts = [heading(self._counts())]
        if self._columns is not None:
            parts.append(paragraph(f"columns: {', '.join(self._columns)}"))
        elif len(self):
            rows = [row_of(rollout) for rollout in self[:_SHOWN_ROWS]]
            parts.append(table_html(_SHOWN, [[row[name] for name in _SHOWN] for row in rows]))
            if len(self) > _SHOWN_ROWS:
                parts.append(paragraph(f"and {len(self) - _SHOWN_ROWS:,} more"))
        return frame(*parts)

    def show(self, *, width: int | None = None) -> None:
        """Print the task whose rewards differ most: a line for each of its rollouts, and the best
        and the worst of them to read.

        Args:
            width: of a line at most; None for the terminal's.
        """
        from gym_ray.conversation.group_text import group_text
        from gym_ray.conversation.rollout_text import write

        self._require_all_columns()
        if not len(self):
            write("no rollouts")
            return
        write(group_text(list(self._of_the_widest_task()), width=width))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Arrow tables of about a thousand rows; nothing but `columns` is read from disk."""
        wanted = self._columns if columns is None else checked_columns(columns)
        gather = RowFetcher(self._index, wanted)
        for start in range(0, len(self), _BATCH_ROWS):
            table = gather.rows(start, min(start + _BATCH_ROWS, len(self)))
            yield table if wanted is None else table.select(wanted)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Everything as one Arrow table, in memory."""
        wanted = self._columns if columns is None else checked_columns(columns)
        tables = list(self.tables(wanted))
        if tables:
            return pa.concat_tables(tables)
        empty = SCHEMA.empty_table()
        return empty if wanted is None else empty.select(wanted)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """Everything as one pandas DataFrame, in memory; scores are dicts, lists numpy arrays.

        Raises:
            ImportError: pandas is not installed.
        """
        _require_installed("pandas")
        return self.to_arrow(columns).to_pandas(maps_as_pydicts="strict")

    def to_polars(self, columns: Sequence[str] | None = None) -> polars.DataFrame:
        """Everything as one polars DataFrame, in memory; scores are maps.

        Raises:
            ImportError: polars is not installed.
        """
        _require_installed("polars")
        import polars

        return polars.DataFrame(self.to_arrow(columns))

    def _at(self, position: int) -> Rollout:
        start = position - position % _NEAR_ROWS
        if self._near is None or self._near[0] != start:
            near = self._index.only(slice(start, start + _NEAR_ROWS))
            self._near = start, RowFetcher(near).rows(0, len(near.table))
        return next(from_table(self._near[1].slice(position - start, 1)))

    def _of_the_widest_task(self) -> Rollouts:
        entries = self._index.table
        tasks = entries.group_by(["environment", "task_index"]).aggregate(
            [("reward", "max"), ("reward", "min")]
        )
        spread = pc.subtract(tasks["reward_max"], tasks["reward_min"])
        # No reward at all is less than rewards that are equal.
        widest = int(np.argmax(pc.fill_null(spread, -1.0).to_numpy()))
        task = tasks.slice(widest, 1).to_pylist()[0]
        same = [pc.equal(entries[name], task[name]) for name in ("environment", "task_index")]
        return Rollouts(self._index.only(pc.and_(*same)))

    def _require_all_columns(self) -> None:
        if self._columns is not None:
            raise ConfigError(
                "a rollout needs all columns: use tables() or to_arrow(), or leave columns out"
            )

    def _counts(self) -> str:
        """How many there are, how they ended, and their mean reward."""
        entries = self._index.table
        tasks = pc.count_distinct(entries["task_index"]).as_py()
        ended = [f"{found:,} {name}" for name, found in count_by_status(entries).items() if found]
        rewards = entries["reward"].drop_null()
        mean = [f"mean reward {short_number(pc.mean(rewards).as_py())}"] if len(rewards) else []
        of = f"{counted(len(self), 'rollout')} of {counted(tasks, 'task')}"
        return ", ".join([of, *ended, *mean])


def _require_installed(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        raise ImportError(
            f"to_{name}() needs {name}, which is not installed: pip install {name}"
        ) from None


def checked_columns(columns: Sequence[str]) -> list[str]:
    """The columns, if rollouts have them.

    Raises:
        ConfigError: they have not.
    """
    for name in columns:
        if name not in SCHEMA.names:
            near = difflib.get_close_matches(name, SCHEMA.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "docs/dataset.md lists them"
            raise ConfigError(f"rollouts have no column {name!r}; {hint}")
    return list(columns)


def _filtered(index: Index, filter: pc.Expression) -> Index:
    """The entries whose row passes, found a row group at a time from the columns it may name."""
    text = str(filter)
    columns = [name for name in SCHEMA.names if re.search(rf"\b{name}\b", text)]
    passing = np.zeros(len(index.table), dtype=bool)
    files, rows = index.table["file"].to_numpy(), index.table["row"].to_numpy()
    for number, path in enumerate(index.files):
        here = np.nonzero(files == number)[0]
        passing[here] = _passing_rows(path, columns, filter)[rows[here]]
    return index.only(pa.array(passing))


def _passing_rows(path: Path, columns: list[str], filter: pc.Expression) -> np.ndarray[Any, Any]:
    file = parquet_file(path)
    found: list[np.ndarray[Any, Any]] = []
    for number in range(file.metadata.num_row_groups):
        table = file.read_row_group(number, columns=columns)
        rows = file.metadata.row_group(number).num_rows
        table = table.append_column(_ROW, pa.array(np.arange(rows)))
        try:
            kept = table.filter(filter)[_ROW].to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError) as error:
            raise ConfigError(
                f"filter {filter}: {error}; docs/dataset.md has the columns"
            ) from None
        passes = np.zeros(rows, dtype=bool)
        passes[kept] = True
        found.append(passes)
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)
