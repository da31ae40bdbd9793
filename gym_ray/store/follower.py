"""Following a run that is being written: each rollout is told once, wherever it lies by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.store.index import Index
from gym_ray.store.rollout_page import PLAIN_COLUMNS, rows_of

#: Answers a question about what is stored now; see `StoredRun.ask`.
Ask = Callable[[Callable[[Index], tuple[pa.Table, Index]]], tuple[pa.Table, Index]]


class Follower:
    """Tells what has become durable since it was last asked.

    New segments bring new rollouts; shards that replace segments bring none. A rollout that failed
    is told a second time if it has been run again since and has not failed.

    Args:
        ask: see `Ask`.
        columns: of the rows that are told.
    """

    def __init__(self, ask: Ask, columns: Sequence[str] = PLAIN_COLUMNS) -> None:
        self._ask = ask
        self._columns = columns
        self._told: pa.Table | None = None

    def updates(self) -> pa.Table:
        """The rows that are new, in dataset order; none where nothing has happened."""
        rows, now = self._ask(self._news)
        self._told = now.table.select(["rollout_id", "status"])
        return rows

    def _news(self, now: Index) -> tuple[pa.Table, Index]:
        if self._told is None:
            return rows_of(now, self._columns), now
        told, table = self._told, now.table
        failed = told.filter(pc.equal(told["status"], "failed"))["rollout_id"]
        is_told = pc.is_in(table["rollout_id"], value_set=told["rollout_id"])
        recovered = pc.and_(
            pc.is_in(table["rollout_id"], value_set=failed),
            pc.not_equal(table["status"], "failed"),
        )
        news = now.only(pc.or_(pc.invert(is_told), recovered))
        return rows_of(news, self._columns), now
