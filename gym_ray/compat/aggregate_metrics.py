"""`<stem>_aggregate_metrics.json`: NeMo Gym's statistics of a finished rollouts file.

One entry per agent: `agent_metrics` over all its rollouts, `group_level_metrics` over those of each
task, `key_metrics` the means of the former. Of every number of a row (true is 1) and of
`response.usage`, keys beginning with `_` left out: mean, max, min, median, and sample standard
deviation sqrt(sum (x - mean)^2 / (n - 1)), 0 for a single rollout (NeMo Gym's `reward_profile.py`).
Failed rollouts are in another file and in no mean, so `coverage/*` says of how many it is.

Not here: what a resources server of theirs adds (pass@k, majority@k); `gym-ray metrics` has those.

Groups are written as they come; of each number, its values are kept on disk.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

_SPILL_VALUES = 8192


def write_aggregate_metrics(
    rollouts: Path,
    output: Path,
    expected_of_agent: Mapping[str, int],
    expected_of_task: Counter[int],
) -> None:
    """Write the statistics of a rollouts file.

    Args:
        rollouts: JSONL, sorted by task.
        output: replaced.
        expected_of_agent, expected_of_task: rollouts the run was to have.
    """
    unfinished = output.with_name(f"{output.name}.unfinished")
    with contextlib.ExitStack() as stack:
        agents: dict[str, _Agent] = {}
        for task, rows in itertools.groupby(_rows(rollouts), key=lambda row: row["_ng_task_index"]):
            for name, own in _by_agent(rows).items():
                if name not in agents:
                    agents[name] = stack.enter_context(_Agent().opened())
                agents[name].add(task, name, own, expected_of_task[task])
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write("[")
            for number, (name, agent) in enumerate(agents.items()):
                file.write("," * (number > 0))
                agent.write(file, name, expected_of_agent.get(name, agent.rollouts))
            file.write("]\n")
    unfinished.replace(output)


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What statistics are made of."""
    usage = (row.get("response") or {}).get("usage") or {}
    return {
        key: float(value)
        for key, value in {**row, **usage}.items()
        if isinstance(value, int | float) and not key.startswith("_")
    }


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            row: dict[str, Any] = json.loads(line)
            yield {  # Without the tokens, which are most of it.
                **row,
                "responses_create_params": None,
                "response": {"usage": row["response"]["usage"]},
            }


def _by_agent(rows: Iterator[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["agent_ref"]["name"], []).append(row)
    return found


class _Agent:
    """The rollouts of one agent, as they come."""

    def __init__(self) -> None:
        self.rollouts = 0
        self._repeats: set[int] = set()
        self._columns: dict[str, _Column] = {}
        self._groups: IO[str]

    @contextlib.contextmanager
    def opened(self) -> Iterator[_Agent]:
        with contextlib.ExitStack() as stack:
            self._groups = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            self._new: Callable[[], _Column] = lambda: _Column(
                stack.enter_context(tempfile.TemporaryFile())
            )
            yield self

    def add(self, task: int, name: str, rows: Sequence[dict[str, Any]], expected: int) -> None:
        """All rollouts of one task."""
        values: dict[str, list[float]] = {}
        infos = []
        for row in rows:
            numbers = numbers_of(row)
            place = {key: row[key] for key in ("_ng_task_index", "_ng_rollout_index")}
            infos.append({"rollout_id": "{}:{}".format(*place.values()), **place, **numbers})
            self._repeats.add(row["_ng_rollout_index"])
            for key, value in numbers.items():
                values.setdefault(key, []).append(value)
                if key not in self._columns:
                    self._columns[key] = self._new()
                self._columns[key].add(value)
        missing = max(0, expected - len(rows))
        group = {
            "_ng_task_index": task,
            **_statistics({key: np.array(own) for key, own in values.items()}),
            "sample": {"agent_ref": {"name": name}},
            "num_rollouts": len(rows),
            "expected_num_rollouts": len(rows) + missing,
            "missing_num_rollouts": missing,
            "reward_profile_completion_pct": 100.0 * len(rows) / (len(rows) + missing),
            "rollout_infos": sorted(infos, key=lambda info: info["_ng_rollout_index"]),
        }
        self._groups.write(("," if self.rollouts else "") + json.dumps(group))
        self.rollouts += len(rows)

    def write(self, file: IO[str], name: str, expected: int) -> None:
        """The entry of the agent."""
        coverage = {
            "coverage/expected": expected,
            "coverage/scored": self.rollouts,
            "coverage/missing": max(0, expected - self.rollouts),
        }
        # One column in memory at a time.
        metrics: dict[str, Any] = {}
        for key, column in self._columns.items():
            metrics |= _statistics({key: column.values()})
        means = {key: value for key, value in metrics.items() if key.startswith("mean/")}
        entry = {
            "agent_ref": {"name": name},
            "agent_metrics": {**metrics, **coverage, "num_repeats": len(self._repeats)},
            "key_metrics": {**means, **coverage},
        }
        file.write(json.dumps(entry)[:-1] + ', "group_level_metrics": [')
        self._groups.seek(0)
        while part := self._groups.read(1 << 20):
            file.write(part)
        file.write("]}")


class _Column:
    """The values of one number, on disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._recent = array("d")

    def add(self, value: float) -> None:
        self._recent.append(value)
        if len(self._recent) >= _SPILL_VALUES:
            self._recent.tofile(self._file)
            self._recent = array("d")

    def values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """float64 [N], all of them."""
        self._recent.tofile(self._file)
        self._recent = array("d")
        self._file.seek(0)
        return np.frombuffer(self._file.read(), dtype=np.float64)


def _statistics(columns: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]) -> dict[str, float]:
    functions: dict[str, Callable[[Any], Any]] = {
        "mean": np.mean,
        "max": np.max,
        "min": np.min,
        "median": np.median,
        "std": lambda values: np.std(values, ddof=1) if len(values) > 1 else 0.0,
    }
    return {
        f"{name}/{key}": float(function(values))
        for name, function in functions.items()
        for key, values in columns.items()
    }
