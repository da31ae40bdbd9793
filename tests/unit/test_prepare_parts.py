"""Parts of `prepare`, each against something simpler that says what it should."""

import json
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.prepare.blending import copies, interleaved, is_validation
from gym_ray.prepare.row_text import with_field
from gym_ray.prepare.task_metrics import MAX_FIELDS, DistinctCount, FieldSpread, TaskMetrics
from gym_ray.store.duplicates import duplicates
from gym_ray.task import read_row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)  # fmt: skip
OBJECT = st.dictionaries(st.text(st.characters(codec="utf-8")), JSON)


@given(OBJECT, JSON, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_setting_a_field_is_what_it_is_on_the_parsed_row(
    row: dict[str, Any], value: Any, indent: Any, ascii_only: bool
) -> None:
    text = json.dumps(row, indent=indent, ensure_ascii=ascii_only)
    key = next(iter(row), "key")
    changed = with_field(text, row, key, value)

    assert read_row(changed.encode()) == {**row, key: value}
    if row:  # What stands before the value and after it is as it was.
        again = with_field(changed, row, key, row[key])
        assert len(again) - len(json.dumps(row[key], ensure_ascii=False)) == len(changed) - len(
            json.dumps(value, ensure_ascii=False)
        )


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("{}", '{"k": 1}'),
        (" { } ", ' {"k": 1 } '),
        ('{"a":"}" }', '{"a":"}", "k": 1 }'),
        ('{"b": {"k": 2}, "k" :[1 , 2],"c":3}', '{"b": {"k": 2}, "k" :1,"c":3}'),
    ],
)
def test_everything_else_of_a_row_stays_as_it_was(text: str, after: str) -> None:
    assert with_field(text, json.loads(text), "k", 1) == after


@pytest.mark.parametrize("distinct", [1, 50, 5000])
def test_duplicates_are_those_a_set_finds(tmp_path: Path, distinct: int) -> None:
    numbers = random.Random(distinct).choices(range(distinct), k=20_000)
    task_ids = [f"{number * 7919:064x}"[::-1] for number in numbers]
    seen: set[str] = set()
    expected = [task_id in seen or seen.add(task_id) is not None for task_id in task_ids]

    assert duplicates(iter(task_ids), tmp_path).tolist() == expected
    assert list(tmp_path.iterdir()) == []


def test_no_rows_have_no_duplicates(tmp_path: Path) -> None:
    assert duplicates([], tmp_path).tolist() == []


def test_shares_and_copies_are_as_many_as_asked_for() -> None:
    numbers = random.Random(0)
    task_ids = [f"{numbers.getrandbits(256):064x}" for _ in range(20_000)]
    held = [is_validation(task_id, 0.25) for task_id in task_ids]
    times = [copies(task_id, 2.4) for task_id in task_ids]

    assert np.mean(held) == pytest.approx(0.25, abs=0.01)
    assert np.mean(times) == pytest.approx(2.4, abs=0.01)
    assert set(times) == {2, 3}
    assert {copies(task_id, 3) for task_id in task_ids} == {3}
    # Which rows are held out says nothing about which are repeated.
    assert np.mean([t for t, h in zip(times, held, strict=True) if h]) == pytest.approx(
        2.4, abs=0.03
    )


@given(st.lists(st.integers(0, 30), max_size=5))
def test_interleaving_keeps_order_and_proportions(lengths: list[int]) -> None:
    sequences = [(n, [(which, i) for i in range(n)]) for which, n in enumerate(lengths)]
    mixed = list(interleaved(sequences))

    for which, length in enumerate(lengths):
        assert [i for w, i in mixed if w == which] == list(range(length))
        for end in range(len(mixed) + 1):
            here = sum(w == which for w, _ in mixed[:end])
            assert abs(here - length * end / max(len(mixed), 1)) <= len(lengths)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2))
def test_spread_agrees_with_the_statistics_module(values: list[float]) -> None:
    spread = FieldSpread()
    for value in values:
        spread.add(value)
    tree = spread.to_tree()

    assert spread.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    deviation = statistics.stdev(values)
    assert tree["Standard deviation"] == pytest.approx(deviation, rel=1e-3, abs=6e-3)
    assert (spread.low, spread.high) == (min(values), max(values))


def test_distinct_texts_are_exact_and_then_within_three_standard_errors() -> None:
    few, many = DistinctCount(), DistinctCount()
    for number in range(16_384):
        few.add(str(number % 1000))
        many.add(str(number))
    assert (few.unique, few.total, few.is_estimate) == (1000, 16_384, False)
    assert (many.unique, many.is_estimate) == (16_384, False)
    for number in range(100_000):
        many.add(str(number))
    for number in range(5_000):
        many.add(str(number % 7))
    assert many.is_estimate
    assert many.unique == pytest.approx(100_000, rel=0.024)


def test_rows_of_endlessly_many_fields_do_not_fill_memory() -> None:
    metrics = TaskMetrics()
    for number in range(MAX_FIELDS + 100):
        metrics.add({"responses_create_params": {"input": "?"}, f"field {number}": 1})
    tree = metrics.to_tree()
    assert tree["Values without metrics"] == 100
    assert sum(name.startswith("field") for name in tree) == MAX_FIELDS


def test_numbers_that_are_not_finite_do_not_make_metrics_illegal_json() -> None:
    metrics = TaskMetrics()
    for text in ("1e999", "1" + "0" * 400, "2"):
        metrics.add({"responses_create_params": {"input": "?"}, "x": json.loads(text)})
    assert "Infinity" not in json.dumps(metrics.to_tree())
    assert metrics.to_tree()["x"]["Max"] == 2.0
