"""The manifest: every rollout of a run once, whatever the input holds, in bounded memory."""

import collections
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gym_ray.collection.input import TaskInput
from gym_ray.collection.manifest import ROW_GROUP_ROWS, Manifest, write_manifest
from gym_ray.config.load import load_config
from gym_ray.environment import Environment, TaskFields
from gym_ray.errors import ConfigError
from gym_ray.rollout import RolloutSpec
from gym_ray.routing import Router
from gym_ray.store.rows import specs_from_table
from gym_ray.task import rollout_id_of

Write = Callable[..., Path]
Rows = Callable[..., dict[str, Any]]


class Sums(Environment):
    class Fields(TaskFields):
        expected_answer: str


def manifest_of(
    path: Path,
    *,
    num_repeats: int = 1,
    limit: int | None = None,
    extends: Manifest | None = None,
    environments: dict[str, Any] | None = None,
) -> Manifest:
    sections = environments or {"plain": {}}
    config = load_config({"environments": sections, "collect": {"input": str(path)}})
    built = {name: Sums() if name == "sums" else Environment() for name in sections}
    return write_manifest(
        path.with_suffix(".manifest.parquet"),
        TaskInput(config, built),
        Router(config.environments, built),
        num_repeats=num_repeats,
        limit=limit,
        extends=extends,
    )


def specs_of(manifest: Manifest) -> list[RolloutSpec]:
    return [
        spec
        for batch in manifest.batches()
        for spec in specs_from_table(pa.Table.from_batches([batch]))
    ]


def places(specs: list[RolloutSpec]) -> list[tuple[int, int]]:
    return [(spec.task_index, spec.rollout_index) for spec in specs]


def test_every_row_is_there_as_often_as_asked_for(write_lines: Write, make_row: Rows) -> None:
    path = write_lines([make_row(f"q{n}") for n in range(3)])

    manifest = manifest_of(path, num_repeats=2)
    specs = specs_of(manifest)

    assert manifest.rollouts == len(specs) == 6
    assert places(specs) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert [spec.source_line for spec in specs] == [1, 1, 2, 2, 3, 3]
    assert {spec.environment for spec in specs} == {"plain"}
    assert [json.loads(spec.task) for spec in specs[::2]] == [make_row(f"q{n}") for n in range(3)]
    assert all(s.rollout_id == rollout_id_of(s.task_id, "plain", s.rollout_index) for s in specs)


def test_identical_rows_share_a_task_and_count_on(write_lines: Write, make_row: Rows) -> None:
    same = make_row("same")
    relabelled = {"_rowidx": 7, **dict(reversed(list(same.items())))}

    specs = specs_of(manifest_of(write_lines([same, make_row("other"), relabelled]), num_repeats=2))

    assert places(specs) == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3)]
    assert len({spec.task_id for spec in specs}) == 2
    assert len({spec.rollout_id for spec in specs}) == 6


def test_the_limit_counts_rows_and_not_blank_lines(write_lines: Write, make_row: Rows) -> None:
    path = write_lines([make_row("a"), "", make_row("b"), make_row("c")])

    specs = specs_of(manifest_of(path, limit=2, num_repeats=2))

    assert [spec.source_line for spec in specs] == [1, 1, 3, 3]


def test_malformed_lines_become_rows_that_name_file_and_line(
    write_lines: Write, make_row: Rows
) -> None:
    good = {**make_row("1 + 1"), "expected_answer": "2"}
    broken = ["{not json", "[1]", "{}", make_row("?"), {**good, "agent_ref": "summs"}]
    broken.append('{"responses_create_params": {"input": "?"}, "expected_answer": "\\ud800"}')
    path = write_lines([good, *broken, broken[0], good])

    specs = specs_of(manifest_of(path, environments={"sums": {}}))
    errors = [spec.error for spec in specs]
    assert [error is None for error in errors] == [True, *[False] * 4, True, False, False, True]
    for spec in specs:
        if spec.error is not None:
            assert spec.error.startswith(f"{path}:{spec.source_line}: row ")
            assert spec.environment == ""
    assert errors[1] is not None
    assert "write one JSON object per line" in errors[1]
    assert errors[4] is not None
    assert "field 'expected_answer': Field required" in errors[4]
    # The same malformed text on two lines is two rows: their places differ.
    assert specs[1].task_id != specs[7].task_id
    assert len({spec.rollout_id for spec in specs}) == len(specs)


def test_rows_go_where_their_agent_ref_says(write_lines: Write, make_row: Rows) -> None:
    refs = ["sums", {"name": "sums"}, "old_name", "plain", None, "plian", "nothing like it"]
    rows = [{**make_row(str(n)), "expected_answer": "2"} for n in range(len(refs))]
    for row, ref in zip(rows, refs, strict=True):
        if ref is not None:
            row["agent_ref"] = ref
    environments = {"sums": {"agent_refs": ["old_name"]}, "plain": {}}

    specs = specs_of(manifest_of(write_lines(rows), environments=environments))

    assert [s.environment for s in specs] == ["sums", "sums", "sums", "plain", "", "", ""]
    missing, misspelt, unknown = (str(spec.error) for spec in specs[4:])
    assert '"agent_ref": {"name": "…"} with one of: old_name, plain, sums' in missing
    assert "did you mean 'plain'?" in misspelt
    assert "list it in an environment's agent_refs" in unknown


def test_a_name_beats_an_alias_of_another_environment(write_lines: Write, make_row: Rows) -> None:
    environments = {"plain": {"agent_refs": ["sums"]}, "sums": {}}
    row = {**make_row("?"), "expected_answer": "2", "agent_ref": "sums"}

    (spec,) = specs_of(manifest_of(write_lines([row]), environments=environments))

    assert spec.environment == "sums"


@pytest.mark.parametrize("given", [-1, 2**31, 2**80, True, 1.0, "3", None])
def test_an_index_no_column_can_hold_is_replaced_by_the_position(
    write_lines: Write, make_row: Rows, given: Any
) -> None:
    rows = [make_row("a"), {**make_row("b"), "_ng_task_index": given}]

    assert places(specs_of(manifest_of(write_lines(rows)))) == [(0, 0), (1, 0)]


def test_an_index_the_row_brings_along_is_kept(write_lines: Write, make_row: Rows) -> None:
    rows = [{**make_row(f"q{n}"), "_ng_task_index": 40 + n} for n in range(2)]

    assert places(specs_of(manifest_of(write_lines(rows)))) == [(40, 0), (41, 0)]


def test_an_input_without_rows_is_refused_and_leaves_nothing(
    tmp_path: Path, write_lines: Write
) -> None:
    path = write_lines(["", "  "])

    with pytest.raises(ConfigError, match=r"tasks\.jsonl holds no task rows"):
        manifest_of(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_row_groups_are_small_and_the_manifest_reads_back(
    write_lines: Write, make_row: Rows
) -> None:
    path = write_lines([make_row(f"q{n}") for n in range(300)])

    manifest = manifest_of(path, num_repeats=2)

    file = pq.ParquetFile(manifest.path)
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
    assert sizes == [256, 256, 88]
    assert max(sizes) <= ROW_GROUP_ROWS
    assert Manifest.read(manifest.path) == manifest


def test_extending_adds_the_new_rows_and_changes_nothing_else(
    write_lines: Write, make_row: Rows
) -> None:
    old = [make_row("a"), make_row("b"), "{broken", make_row("a")]
    before = manifest_of(write_lines(old), num_repeats=2)
    kept = specs_of(before)

    new = [make_row("first"), *old, make_row("b"), make_row("last")]
    new[3] = make_row("c")  # the broken line was repaired
    after = manifest_of(write_lines(new), num_repeats=2, extends=before)
    specs = specs_of(after)

    assert specs[: len(kept)] == kept
    added = [(json.loads(s.task), *place) for s in specs[8:] for place in places([s])]
    assert added == [
        (make_row("first"), 3, 0),
        (make_row("first"), 3, 1),
        (make_row("c"), 4, 0),
        (make_row("c"), 4, 1),
        (make_row("b"), 1, 2),
        (make_row("b"), 1, 3),
        (make_row("last"), 6, 0),
        (make_row("last"), 6, 1),
    ]
    assert len({spec.rollout_id for spec in specs}) == after.rollouts == 16
    assert after.sources != before.sources


def test_extending_an_unchanged_input_adds_nothing(write_lines: Write, make_row: Rows) -> None:
    path = write_lines([make_row("a"), "{broken", make_row("a")])
    before = manifest_of(path, num_repeats=3)
    kept = specs_of(before)

    assert specs_of(manifest_of(path, num_repeats=3, extends=before)) == kept


LINES = st.lists(
    st.sampled_from(["a", "b", "c", "d", "{broken", "[]", ""]), min_size=1, max_size=12
)


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(
    first=LINES,
    more=LINES,
    num_repeats=st.integers(1, 3),
    added_repeats=st.integers(0, 3),
    data=st.data(),
)
def test_ids_are_unique_and_groups_count_from_zero_for_any_input_and_extension(
    tmp_path_factory: pytest.TempPathFactory,
    make_row: Rows,
    first: list[str],
    more: list[str],
    num_repeats: int,
    added_repeats: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("input") / "tasks.jsonl"

    def save(names: list[str]) -> None:
        lines = [json.dumps(make_row(name)) if name in "abcd" else name for name in names]
        path.write_text(
            "\n".join(line if name else "" for line, name in zip(lines, names, strict=True))
        )

    first = [*first, "a"]
    save(first)
    before = manifest_of(path, num_repeats=num_repeats)
    kept = specs_of(before)
    both = data.draw(st.permutations([*first, *more]))
    save(both)
    grown = num_repeats + added_repeats
    specs = specs_of(manifest_of(path, num_repeats=grown, extends=before))

    assert len(kept) == num_repeats * sum(1 for name in first if name)
    assert specs[: len(kept)] == kept
    for found in (kept, specs):
        assert len({spec.rollout_id for spec in found}) == len(found)
        groups = collections.defaultdict(list)
        for spec in found:
            groups[spec.task_id].append(spec)
        for group in groups.values():
            assert [spec.rollout_index for spec in group] == list(range(len(group)))
            assert len({spec.task_index for spec in group}) == 1
        assert len({group[0].task_index for group in groups.values()}) == len(groups)
    expected = [make_row(name) for name in both if name in "abcd" and name]
    asked = collections.Counter(json.dumps(row) for row in expected * grown)
    assert collections.Counter(spec.task for spec in specs if spec.error is None) == asked


def peak_bytes(path: Path, make_row: Rows, rows: int) -> int:
    with open(path, "w") as file:
        file.writelines(json.dumps(make_row(f"q{n}")) + "\n" for n in range(rows))
    tracemalloc.start()
    try:
        manifest_of(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, make_row: Rows) -> None:
    path = tmp_path / "tasks.jsonl"
    peak_bytes(path, make_row, 300)  # what is imported on first use is no part of it

    few, many = (peak_bytes(path, make_row, rows) for rows in (400, 1600))

    assert many < few * 1.25
