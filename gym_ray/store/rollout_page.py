"""Some rollouts of a run, by number: what a person looks at, a page at a time.

Which they are is decided by the index; of the files nothing is read but those rows' row groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.store.index import Index
from gym_ray.store.reading import checked_columns
from gym_ray.store.row_fetcher import RowFetcher
from gym_ray.store.schema import SCHEMA

#: Columns that hold a value per token. They are most of a file, and read only when asked for.
TOKEN_COLUMNS = ("token_ids", "loss_mask", "logprobs", "side_branches")
PLAIN_COLUMNS = tuple(name for name in SCHEMA.names if name not in TOKEN_COLUMNS)


@dataclasses.dataclass(frozen=True, slots=True)
class RolloutFilter:
    """Which rollouts are wanted.

    Attributes:
        statuses, environments: any of these; all where empty.
        min_reward, max_reward: the range of the reward, ends included; rollouts without a reward
            are in none.
    """

    statuses: Sequence[str] = ()
    environments: Sequence[str] = ()
    min_reward: float | None = None
    max_reward: float | None = None

    def of(self, index: Index) -> Index:
        """The entries that pass."""
        table = index.table
        tests = [
            pc.is_in(table[name], value_set=pa.array(wanted, type=pa.string()))
            for name, wanted in (("status", self.statuses), ("environment", self.environments))
            if wanted
        ]
        if self.min_reward is not None:
            tests.append(pc.greater_equal(table["reward"], self.min_reward))
        if self.max_reward is not None:
            tests.append(pc.less_equal(table["reward"], self.max_reward))
        if not tests:
            return index
        passing = tests[0]
        for test in tests[1:]:
            passing = pc.and_(passing, test)
        return index.only(pc.fill_null(passing, False))


@dataclasses.dataclass(frozen=True, slots=True)
class RolloutPage:
    """Consecutive rollouts, in dataset order.

    Attributes:
        table: a row each.
        offset: how many come before them.
        total: how many there are that pass the filter.
    """

    table: pa.Table
    offset: int
    total: int

    @property
    def next_offset(self) -> int | None:
        """Where the next page begins; None at the end."""
        end = self.offset + len(self.table)
        return end if end < self.total else None


def page_of(
    index: Index, filter: RolloutFilter, columns: Sequence[str], offset: int, limit: int
) -> RolloutPage:
    """A page of what passes a filter."""
    passing = filter.of(index)
    rows = rows_of(passing.only(slice(offset, offset + limit)), columns)
    return RolloutPage(rows, offset, len(passing.table))


def rows_of(index: Index, columns: Sequence[str]) -> pa.Table:
    """These columns of all rows of an index, in its order."""
    wanted = checked_columns(columns)
    if not len(index.table):
        return SCHEMA.empty_table().select(wanted)
    return RowFetcher(index, wanted).rows(0, len(index.table)).select(wanted)
