"""Metrics of prepared task files: NeMo Gym's, under its names, and how long prompts are in tokens.

Definitions (NeMo Gym's `train_data_utils.py`; docs/prepare.md):

* words: `len(json.dumps(responses_create_params).split())`;
* turns: input items of role user; of a string input 1; not counted where there are none;
* tools, temperature and the other sampling parameters: of the rows that have them;
* of every number: how many, mean, min, max and sample standard deviation
  sqrt(sum (x - mean)^2 / (n - 1)), 0 for a single value, by Welford's updates (Technometrics 4(3),
  1962); rounded to 2 digits from 1 on, else to 3;
* of other top-level fields, numbers likewise (true is 1) and texts `unique_count`, `total_count`;
  elements of a list count one by one, objects not at all.

Memory does not grow with the rows: unique texts are counted by `DistinctCount`, fields by name up
to `MAX_FIELDS`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from gym_ray.task import is_reserved

#: Fields with metrics of their own; the values of further ones are only counted.
MAX_FIELDS = 256

#: Smallest hashes kept to count distinct texts.
_KEPT_HASHES = 16_384

_SAMPLING = {
    "Temperature": "temperature",
    "Top p": "top_p",
    "Max output tokens": "max_output_tokens",
}
_PERCENTILES = (50, 90, 95, 99)


@dataclasses.dataclass(slots=True)
class FieldSpread:
    """Count, mean, range and standard deviation of numbers seen one by one."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, value: float) -> None:
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self.squares += difference * (value - self.mean)
        self.low = min(self.low, value)
        self.high = max(self.high, value)

    def to_tree(self) -> dict[str, Any]:
        deviation = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return {
            "Total # non-null values": self.count,
            "Average": _rounded(self.mean),
            "Min": _rounded(self.low if self.count else 0.0),
            "Max": _rounded(self.high if self.count else 0.0),
            "Standard deviation": _rounded(deviation),
        }


class DistinctCount:
    """How many different texts there were: exactly up to 16,384, estimated beyond.

    Keeps the k smallest of uniform 64-bit hashes; with the largest of them at u in (0, 1], the
    estimate is (k - 1) / u, standard error 1 / sqrt(k - 2) = 0.8 % (Beyer et al., SIGMOD 2007).
    """

    def __init__(self) -> None:
        self.total = 0
        self.is_estimate = False
        self._heap: list[int] = []  # negative: the largest kept hash is at its top
        self._kept: set[int] = set()

    def add(self, text: str) -> None:
        self.total += 1
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        if number in self._kept or (self.is_estimate and number > -self._heap[0]):
            return
        self._kept.add(number)
        heapq.heappush(self._heap, -number)
        if len(self._heap) > _KEPT_HASHES:
            self.is_estimate = True
            self._kept.discard(-heapq.heappop(self._heap))

    @property
    def unique(self) -> int:
        if not self.is_estimate:
            return len(self._kept)
        return round((_KEPT_HASHES - 1) / ((-self._heap[0] + 1) / 2**64))


class TokenCounts:
    """Lengths of prompts, each counted: exact percentiles, memory bounded by different lengths.

    Args:
        model: whose tokenizer and chat template it is.
        count: tokens of a row's prompt; None when it cannot be rendered.
    """

    def __init__(self, model: str, count: Callable[[Mapping[str, Any]], int | None]) -> None:
        self._model = model
        self._count = count
        self._spread = FieldSpread()
        self._lengths: Counter[int] = Counter()
        self._unrendered = 0

    def add(self, row: Mapping[str, Any]) -> None:
        length = self._count(row)
        if length is None:
            self._unrendered += 1
            return
        self._spread.add(length)
        self._lengths[length] += 1

    def to_tree(self) -> dict[str, Any]:
        """Percentile p is the smallest length that at least p percent of the prompts keep to."""
        tree: dict[str, Any] = {"tokenizer": self._model, **self._spread.to_tree()}
        seen, left = 0, list(_PERCENTILES)
        for length, times in sorted(self._lengths.items()):
            seen += times
            while left and 100 * seen >= left[0] * self._spread.count:
                tree[f"p{left.pop(0)}"] = length
        return {**tree, "Could not be rendered": self._unrendered}


class TaskMetrics:
    """Metrics of the rows of one file.

    Args:
        tokens: counts their prompts, when a tokenizer was named.
    """

    def __init__(self, tokens: TokenCounts | None = None) -> None:
        self._rows = 0
        self._tools, self._words, self._turns = FieldSpread(), FieldSpread(), FieldSpread()
        self._sampling = {name: FieldSpread() for name in _SAMPLING}
        self._numbers: dict[str, FieldSpread] = {}
        self._texts: dict[str, DistinctCount] = {}
        self._uncounted = 0
        self._tokens = tokens

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a legal row."""
        self._rows += 1
        params = row["responses_create_params"]
        if params.get("tools") is not None:
            self._tools.add(len(params["tools"]))
        self._words.add(len(json.dumps(params).split()))
        items = params["input"]
        turns = 1 if isinstance(items, str) else sum(item.get("role") == "user" for item in items)
        if turns:
            self._turns.add(turns)
        for name, key in _SAMPLING.items():
            if params.get(key) is not None:
                self._sampling[name].add(params[key])
        for key, value in row.items():
            if key != "responses_create_params" and not is_reserved(key):
                for element in value if isinstance(value, list) else [value]:
                    self._add_field(key, element)
        if self._tokens is not None:
            self._tokens.add(row)

    def _add_field(self, key: str, value: Any) -> None:
        if not isinstance(value, str | int | float):
            return
        is_new = key not in self._numbers and key not in self._texts
        if is_new and len(self._numbers.keys() | self._texts.keys()) >= MAX_FIELDS:
            self._uncounted += 1
            return
        if isinstance(value, str):
            self._texts.setdefault(key, DistinctCount()).add(value)
        elif abs(value) <= _LARGEST:
            self._numbers.setdefault(key, FieldSpread()).add(float(value))
        else:
            self._uncounted += 1

    def to_tree(self) -> dict[str, Any]:
        """The content of the `*_metrics.json`."""
        tree: dict[str, Any] = {
            "Number of examples": self._rows,
            "Number of tools": self._tools.to_tree(),
            "Json-dumped number of words (proxy for token count)": self._words.to_tree(),
            "Number of turns": self._turns.to_tree(),
            **{name: spread.to_tree() for name, spread in self._sampling.items()},
        }
        if self._tokens is not None:
            tree["Input tokens"] = self._tokens.to_tree()
        for key in [*self._numbers, *(key for key in self._texts if key not in self._numbers)]:
            field = self._numbers[key].to_tree() if key in self._numbers else {}
            if key in self._texts:
                texts = self._texts[key]
                field |= {"unique_count": texts.unique, "total_count": texts.total}
                if texts.is_estimate:
                    field["unique_count_is_estimate"] = True
            tree.setdefault(key, field)
        if self._uncounted:
            tree["Values without metrics"] = self._uncounted
        return tree


#: Beyond this a square is no finite number.
_LARGEST = 1e150


def token_counter(model: str) -> Callable[[Mapping[str, Any]], int | None]:
    """Counts the tokens of a row's prompt as a rollout would render it, tools included.

    Args:
        model: as `policy.model`; `bytes` for one token a byte, which needs no files.

    Raises:
        ConfigError: there is no such tokenizer.
    """
    from gym_ray.policies.bundled import resolve_model
    from gym_ray.renderers import load_renderer, messages_from_items, tools_for_chat
    from gym_ray.task import Task

    renderer = load_renderer(None if model == "bytes" else resolve_model(model))

    def count(row: Mapping[str, Any]) -> int | None:
        task = Task("", row)
        try:
            messages = messages_from_items(task.input_items)
            return len(renderer.render(messages, tools_for_chat(task.tools)))
        except Exception:  # what a chat template raises at a conversation it does not take
            return None

    return count


def _rounded(value: float) -> float:
    return float(round(value, 2) if abs(value) >= 1 else round(value, 3))
