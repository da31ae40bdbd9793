"""Preparing tasks: from task files to `train.jsonl` and `validation.jsonl`.

Two passes. The first checks every row and keeps the legal ones, as they will be written, in Parquet
files beside the output; the second writes them in their final order. Memory holds a row group of
each task file (1,024 rows or 16 MB of text), and with `deduplicate` a byte per row; disk holds the
rows once more, compressed, while the command runs.

Owned here: the command in order, and its folder. Not owned here: checking a row (checking), where
each goes (blending), what is counted (task_metrics).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from gym_ray.collection.input import TaskInput
from gym_ray.config.load import RunConfig, load_config
from gym_ray.environment import Environment
from gym_ray.errors import ConfigError
from gym_ray.prepare.blending import copies, interleaved, is_validation
from gym_ray.prepare.checking import CheckedRow, RejectedRow, RowChecker
from gym_ray.prepare.metrics_conflicts import (
    CompareMetrics,
    changed_metrics,
    conflict_path,
    read_metrics,
)
from gym_ray.prepare.overlap import overlap
from gym_ray.prepare.prepare_report import SHOWN_REJECTIONS, PrepareReport, TaskFileCounts
from gym_ray.prepare.prepared_rows import PreparedRowWriter, rows_of, task_ids_of
from gym_ray.prepare.row_template import RowTemplate
from gym_ray.prepare.task_files import SPLITS, Split, TaskFile, declared, in_reading_order
from gym_ray.prepare.task_metrics import TaskMetrics, TokenCounts, token_counter
from gym_ray.registry import load_environments
from gym_ray.routing import Router
from gym_ray.store.duplicates import duplicates
from gym_ray.store.places import write_text_whole
from gym_ray.telemetry.progress import Progress

_REPORT = "report.json"
_REJECTED = "rejected.jsonl"
_WORK = ".unfinished"

#: Rows between two looks at the clock for progress.
_PROGRESS_ROWS = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """A task file, opened.

    Attributes:
        task_file: which.
        rows: its lines.
        checker: checks them.
        checked: Parquet file of the legal ones.
        counts: what becomes of them.
    """

    task_file: TaskFile
    rows: TaskInput
    checker: RowChecker
    checked: Path
    counts: TaskFileCounts


def prepare(
    config: RunConfig | str | Path,
    output: str | Path,
    *,
    overrides: Sequence[str] = (),
    task_files: Sequence[TaskFile] = (),
    splits: Sequence[Split] = ("train", "validation"),
    on_invalid: Literal["fail", "drop"] = "fail",
    compare_metrics: CompareMetrics | None = None,
    metrics_facts: Mapping[Split, Mapping[str, Any]] = MappingProxyType({}),
    deduplicate: bool = False,
    validation_share: float = 0.0,
    prompt: str | None = None,
    tokenizer: str | None = None,
    quiet: bool = False,
) -> PrepareReport:
    """Check task rows and write those of all environments as one training and validation set.

    Args:
        config: has the environments, and the task files unless `task_files` are given.
        output: folder of the prepared files. What an earlier `prepare` wrote there is replaced.
        overrides: dotted assignments over the config.
        task_files: instead of those the config declares.
        splits: which of the declared ones.
        on_invalid: `fail` checks every row and writes nothing if one is no legal task; `drop`
            leaves such rows out. They are reported either way.
        compare_metrics: says how new metrics differ from those that are in the folder, such as
            `gym_ray.compat.metrics_conflicts.differences`; where they do, no rows are written, and
            the new metrics in `*_metrics_conflict.json`. None overwrites the old ones.
        metrics_facts: what is known of the rows of a split, put before its metrics.
        deduplicate: keep only the first of the rows with the same content.
        validation_share: part of the training rows to hold out for validation, by task ID.
        prompt: template of raw rows, for task files that have none of their own.
        tokenizer: model whose tokenizer and chat template count the prompts' tokens.
        quiet: no progress on standard error.

    Returns:
        What was done; also written to `OUTPUT/report.json`. Where rows were rejected and
        `on_invalid` is `fail`, or metrics are in conflict, no rows were written.

    Raises:
        ConfigError: the config, the task files or the output are wrong; nothing was written.
    """
    started = time.monotonic()
    if not 0 <= validation_share < 1:
        raise ConfigError(f"--validation-share must be from 0 to below 1, got {validation_share:g}")
    if "://" in str(output):
        raise ConfigError(
            f"--output {str(output)!r}: only a local or mounted folder can be written"
        )
    checked = load_config(config, overrides)
    environments = load_environments(checked)
    files = in_reading_order(task_files) if task_files else declared(checked, splits)
    folder = Path(output)
    work = folder / _WORK
    sources = [
        _open(file, work / f"{number}.parquet", checked, environments, prompt)
        for number, file in enumerate(files)
    ]
    count = None if tokenizer is None else token_counter(tokenizer)
    earlier = read_metrics(folder / name for name in _METRICS_FILES) if compare_metrics else {}
    _clear(folder, sources, keep=set(earlier))
    try:
        with Progress(quiet=quiet) as progress:
            rejections = _check(sources, folder, progress)
            report = PrepareReport(
                output=str(output),
                on_invalid=on_invalid,
                task_files=[source.counts for source in sources],
                rejections=rejections,
                seconds=0.0,
            )
            if not report.rejected or on_invalid == "drop":
                repeated = _repeated(sources, work) if deduplicate else None
                plan = _Plan(sources, repeated, validation_share)
                for split in SPLITS:
                    tokens = TokenCounts(str(tokenizer), count) if count else None
                    facts = metrics_facts.get(split, {})
                    _write(plan, split, work, facts, TaskMetrics(tokens), progress)
            report = dataclasses.replace(
                report,
                overlap=overlap(((s.task_file.split, s.checked) for s in sources), work)
                if not deduplicate
                else 0,
                conflicts=(
                    changed_metrics(earlier, work, compare_metrics) if compare_metrics else {}
                ),
                seconds=time.monotonic() - started,
            )
            if report.conflicts:
                _publish_conflicts(folder, report)
            else:
                _publish(folder, report)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _open(
    file: TaskFile,
    checked: Path,
    config: RunConfig,
    environments: dict[str, Environment],
    prompt: str | None,
) -> _Source:
    if file.environment is not None and file.environment not in config.environments:
        raise ConfigError(
            f"{file.key}: no environment {file.environment!r} is configured; configured: "
            f"{', '.join(config.environments)}"
        )
    file = dataclasses.replace(file, prompt=file.prompt or prompt, name=file.name or file.path)
    template = None if file.prompt is None else RowTemplate.read(file.prompt)
    router = Router(config.environments, environments)
    return _Source(
        task_file=file,
        rows=TaskInput(
            config, environments, name=file.path, key=file.key, raw=template is not None
        ),
        checker=RowChecker(file, router, template),
        checked=checked,
        counts=TaskFileCounts(file),
    )


def _clear(folder: Path, sources: Sequence[_Source], *, keep: Set[str]) -> None:
    """Make the folder ready: none of an earlier `prepare`'s files may be taken for this one's.

    Args:
        folder: of the output.
        sources: none may stand in it.
        keep: names of files to leave.

    Raises:
        ConfigError: it is something else's, or what is read stands in it.
    """
    own = {f"{split}{suffix}" for split in SPLITS for suffix in _SUFFIXES}
    own |= {conflict_path(folder / name).name for name in _METRICS_FILES}
    own |= {_REPORT, _REJECTED, _WORK}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in own)
        if strangers:
            raise ConfigError(
                f"--output {str(folder)!r} holds files that `prepare` did not write "
                f"({strangers[0]}, …); name a new folder"
            )
        for source in sources:
            for path in source.rows.files:
                if path.resolve().parent == folder.resolve():
                    raise ConfigError(
                        f"--output {str(folder)!r} is where {path} is read from; name a new folder"
                    )
        for entry in folder.iterdir():
            if entry.name == _WORK:
                shutil.rmtree(entry)
            elif entry.name not in keep:
                entry.unlink()
        (folder / _WORK).mkdir()
    except OSError as error:
        raise ConfigError(
            f"--output {str(folder)!r}: cannot be written: {error.strerror}; name a folder you "
            "may write to"
        ) from None


_METRICS = "_metrics.json"
_SUFFIXES = (".jsonl", ".parquet", _METRICS)
_METRICS_FILES = [f"{split}{_METRICS}" for split in SPLITS]


def _check(sources: Sequence[_Source], folder: Path, progress: Progress) -> list[RejectedRow]:
    """First pass: the legal rows of every source to its file, the others to the list of rejected.

    Returns:
        The first of the rejected.
    """
    first: list[RejectedRow] = []
    with open(folder / _REJECTED, "w", encoding="utf-8") as rejected:
        for source in sources:
            counts = source.counts
            with PreparedRowWriter(source.checked) as writer:
                for line in source.rows.lines():
                    counts.read += 1
                    found = source.checker.check(line)
                    if isinstance(found, CheckedRow):
                        writer.write(
                            {
                                "task_id": found.task_id,
                                "environment": found.environment,
                                "dataset": source.task_file.name,
                                "source_file": line.source_file,
                                "source_line": line.source_line,
                                "task": found.text,
                            }
                        )
                    else:
                        counts.rejected += 1
                        rejected.write(json.dumps(dataclasses.asdict(found)) + "\n")
                        if len(first) < SHOWN_REJECTIONS:
                            first.append(found)
                    if counts.read % _PROGRESS_ROWS == 0:
                        progress.update(
                            f"{source.task_file.name}: {counts.read} rows checked, "
                            f"{counts.rejected} rejected"
                        )
            if counts.read == 0:
                raise ConfigError(f"{source.task_file.key}: {source.task_file.path} holds no rows")
    return first


def _repeated(sources: Sequence[_Source], work: Path) -> list[np.ndarray[Any, np.dtype[np.bool_]]]:
    """For each source, which of its legal rows repeat an earlier one, of any source."""
    task_ids = itertools.chain.from_iterable(task_ids_of(source.checked) for source in sources)
    found = duplicates(task_ids, work)
    ends = np.cumsum([source.counts.read - source.counts.rejected for source in sources])
    parts = np.split(found, ends[:-1])
    for source, part in zip(sources, parts, strict=True):
        source.counts.duplicates = int(part.sum())
    return parts


class _Plan:
    """Which rows are written where, how often, and in which order.

    Args:
        sources: checked.
        repeated: which of their rows are left out as duplicates; None to leave out none.
        validation_share: part of the training rows that is held out.
    """

    def __init__(
        self,
        sources: Sequence[_Source],
        repeated: list[np.ndarray[Any, np.dtype[np.bool_]]] | None,
        validation_share: float,
    ) -> None:
        self._sources = sources
        self._repeated = repeated
        self._share = validation_share
        for index, source in enumerate(sources):
            written = source.counts.written
            for row, task_id in enumerate(task_ids_of(source.checked)):
                split, times = self._assign(index, row, task_id)
                if times:
                    written[split] = written.get(split, 0) + times

    def rows(self, split: Split) -> Iterator[dict[str, Any]]:
        """The rows of a prepared file, in its order."""
        return interleaved(
            [
                (source.counts.written.get(split, 0), self._of_source(index, split))
                for index, source in enumerate(self._sources)
            ]
        )

    def _of_source(self, index: int, split: Split) -> Iterator[dict[str, Any]]:
        """Once through the source for every copy, so that the copies of a row stand far apart."""
        source = self._sources[index]
        for copy in itertools.count():
            if copy >= source.task_file.weight:
                return
            for position, row in enumerate(rows_of(source.checked)):
                goes_to, times = self._assign(index, position, row["task_id"])
                if goes_to == split and times > copy:
                    yield row

    def _assign(self, index: int, row: int, task_id: str) -> tuple[Split, int]:
        """Where a row of a source goes, and how often."""
        file = self._sources[index].task_file
        if self._repeated is not None and self._repeated[index][row]:
            return file.split, 0
        held_out = file.split == "train" and is_validation(task_id, self._share)
        return "validation" if held_out else file.split, copies(task_id, file.weight)


def _write(
    plan: _Plan,
    split: Split,
    work: Path,
    facts: Mapping[str, Any],
    metrics: TaskMetrics,
    progress: Progress,
) -> None:
    """Second pass: the files of one split, in the work folder; none where no row goes there."""
    rows = plan.rows(split)
    first = next(rows, None)
    if first is None:
        return
    with (
        open(work / f"{split}.jsonl", "wb") as lines,
        PreparedRowWriter(work / f"{split}.parquet") as writer,
    ):
        for row in itertools.chain([first], rows):
            lines.write(row["task"].encode() + b"\n")
            writer.write(row)
            metrics.add(json.loads(row["task"]))
            if writer.rows % _PROGRESS_ROWS == 0:
                progress.update(f"{split}: {writer.rows} rows written")
    tree = {**facts, **metrics.to_tree()}
    write_text_whole(
        work / f"{split}{_METRICS}", json.dumps(tree, indent=4, ensure_ascii=False) + "\n"
    )


def _publish_conflicts(folder: Path, report: PrepareReport) -> None:
    """The metrics that differ appear beside those they differ from, and no rows."""
    for name in report.conflicts:
        (folder / _WORK / name).replace(conflict_path(folder / name))
    for counts in report.task_files:
        counts.written.clear()
    write_text_whole(folder / _REPORT, report.to_json() + "\n")


def _publish(folder: Path, report: PrepareReport) -> None:
    """Finished files appear, and the report last."""
    for name in (f"{split}{suffix}" for split in SPLITS for suffix in _SUFFIXES):
        with contextlib.suppress(FileNotFoundError):
            if report.written:  # Metrics kept to be compared with, perhaps of a split now empty.
                (folder / name).unlink()
        with contextlib.suppress(FileNotFoundError):
            (folder / _WORK / name).replace(folder / name)
    write_text_whole(folder / _REPORT, report.to_json() + "\n")
