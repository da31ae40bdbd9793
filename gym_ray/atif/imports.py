"""`import atif`: trajectories to a dataset of rollouts, as a collection leaves one.

The output appears whole, under its name, or not at all. Documents are read one at a time; memory
holds those of one segment, and 16 bytes of each task another tool's trajectories are of.

Owned here: the command in order, which documents there are, and what is said about those that
cannot be read. Not owned here: what a trajectory means (rollouts), and its rules (format).
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.atif.format import TrajectoryRefused, checked
from gym_ray.atif.rollouts import Numbers, Origin, adopted, is_ours, remarks, restored
from gym_ray.collection.compaction import compact
from gym_ray.errors import ConfigError
from gym_ray.export.export import unfinished
from gym_ray.rollout import Rollout
from gym_ray.store.index import Index
from gym_ray.store.places import parquet_file, require_local, write_text_whole
from gym_ray.store.segments import SegmentStore
from gym_ray.store.stored_run import StoredRun
from gym_ray.telemetry.progress import Progress

OnInvalid = Literal["fail", "drop"]

#: Rejections shown in the report itself.
SHOWN_REJECTIONS = 100

#: Of a segment, at most: what is held in memory.
_SEGMENT_ROWS = 256
_SEGMENT_TOKENS = 4_000_000

_LINES = (".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True, slots=True)
class RejectedTrajectory:
    """A document that was not imported, and why.

    Attributes:
        file, line: where it is.
        field: what is wrong in it; "" for the whole.
        reason: what is wrong with that.
    """

    file: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        field = f"{self.field} " if self.field else ""
        return f"{self.file}:{self.line}: {field}{self.reason}"


@dataclasses.dataclass(slots=True)
class ImportReport:
    """What `import atif` did; also `DIR/import.json`.

    Attributes:
        output: the folder.
        on_invalid: what was asked for: `fail` writes nothing when a document is rejected.
        files: read.
        read: documents in them.
        rollouts: written.
        ours: of them, restored from `extra.gym_ray`.
        with_tokens: of them, with token IDs and logprobs.
        with_reward: of them, with a reward.
        rejected: documents that were not imported.
        rejections: the first of them; `rejected.jsonl` has all.
        noted: what else is to be known of how many trajectories.
        seconds: wall time.
    """

    output: str
    on_invalid: OnInvalid
    files: int = 0
    read: int = 0
    rollouts: int = 0
    ours: int = 0
    with_tokens: int = 0
    with_reward: int = 0
    rejected: int = 0
    rejections: list[RejectedTrajectory] = dataclasses.field(default_factory=list)
    noted: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def import_atif(
    files: Sequence[str | Path],
    output: str | Path,
    *,
    environment: str = "",
    on_invalid: OnInvalid = "fail",
    quiet: bool = False,
) -> ImportReport:
    """Write a dataset of rollouts made of ATIF trajectories.

    Args:
        files: `.jsonl` with a trajectory a line, others with one trajectory.
        output: folder of the dataset; new, or empty.
        environment: of rollouts whose trajectories another tool wrote.
        on_invalid: `fail` reads everything and writes nothing if a document is rejected; `drop`
            leaves such documents out. They are reported either way.
        quiet: no progress on standard error.

    Returns:
        What was done. Where documents were rejected and `on_invalid` is `fail`, or none was left,
        nothing was written.

    Raises:
        ConfigError: a file cannot be read, the output is not empty, or a rollout is there twice;
            nothing is left behind.
    """
    began = time.monotonic()
    target = require_local(output, "--output")
    report = ImportReport(str(target), on_invalid)
    paths = [_file(name) for name in files]
    with unfinished(target) as folder, Progress(quiet=quiet) as progress:
        _write_segments(_rollouts(paths, environment, folder, report, progress), folder)
        report.seconds = round(time.monotonic() - began, 3)
        if not report.rollouts or (report.rejected and on_invalid == "fail"):
            return report
        index = StoredRun.open(folder).index()
        if index.duplicates:
            raise _twice(index)
        progress.say("sorting")
        (folder / "rollouts").mkdir()
        compact(index, folder / "rollouts", folder / "segments")
        report.seconds = round(time.monotonic() - began, 3)
        write_text_whole(folder / "import.json", report.to_json() + "\n")
        if target.exists():
            target.rmdir()
        os.replace(folder, target)
    return report


def render(report: ImportReport) -> str:
    """The report for a person at a terminal."""
    lines = [str(rejection) for rejection in report.rejections]
    if report.rejected > len(lines):
        lines.append(f"… and {report.rejected - len(lines)} more")
    lines.append(
        f"{report.rollouts} rollouts of {report.read} trajectories in {report.files} files: "
        f"{report.ours} by gym-ray, {report.with_tokens} with tokens, {report.with_reward} with a "
        f"reward; {report.rejected} rejected"
    )
    lines += [f"  {count} {fact}" for fact, count in report.noted.items()]
    return "\n".join(lines)


def _file(name: str | Path) -> Path:
    path = require_local(name, "FILES")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the files in it, e.g. {path}/*.jsonl")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; name .jsonl or .json files of trajectories")
    return path


def _rollouts(
    paths: Sequence[Path],
    environment: str,
    folder: Path,
    report: ImportReport,
    progress: Progress,
) -> Iterator[Rollout]:
    """The rollout of every document that can be read; the others go to `rejected.jsonl`."""
    run_id, numbers = uuid.uuid4().hex[:16], Numbers()
    with open(folder / "rejected.jsonl", "w", encoding="utf-8") as rejected:
        for path in paths:
            report.files += 1
            for line, text in _documents(path):
                report.read += 1
                origin = Origin(str(path), line, run_id, environment)
                try:
                    rollout = _rollout(text, origin, numbers, report)
                except TrajectoryRefused as error:
                    found = RejectedTrajectory(str(path), line, error.field, error.reason)
                    rejected.write(json.dumps(dataclasses.asdict(found)) + "\n")
                    report.rejected += 1
                    if len(report.rejections) < SHOWN_REJECTIONS:
                        report.rejections.append(found)
                    continue
                report.rollouts += 1
                report.with_tokens += rollout.has_tokens
                report.with_reward += rollout.reward is not None
                progress.update(f"{report.read} trajectories read, {report.rejected} rejected")
                yield rollout


def _documents(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line number and text of each; blank lines are none."""
    if path.suffix not in _LINES:
        yield 1, path.read_bytes()
        return
    with open(path, "rb") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield number, text


def _rollout(text: bytes, origin: Origin, numbers: Numbers, report: ImportReport) -> Rollout:
    try:
        tree: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = "one to a line" if Path(origin.file).suffix in _LINES else "one to a file"
        raise TrajectoryRefused(
            "", f"is no JSON ({error}); trajectories are JSON objects, {lines}"
        ) from None
    trajectory = checked(tree)
    if is_ours(trajectory):
        rollout = restored(trajectory, tree)
        report.ours += 1
        return rollout
    rollout = adopted(trajectory, origin, numbers)
    for fact in remarks(trajectory, rollout):
        report.noted[fact] = report.noted.get(fact, 0) + 1
    return rollout


def _write_segments(rollouts: Iterator[Rollout], folder: Path) -> None:
    store = SegmentStore(folder / "segments")
    held: list[Rollout] = []
    tokens = number = 0
    for rollout in rollouts:
        held.append(rollout)
        tokens += len(rollout.token_ids)
        if len(held) == _SEGMENT_ROWS or tokens > _SEGMENT_TOKENS:
            store.write(f"{number:08d}", held)
            held, tokens, number = [], 0, number + 1
    if held:
        store.write(f"{number:08d}", held)


def _twice(index: Index) -> ConfigError:
    ids = pa.concat_tables([parquet_file(path).read(["rollout_id"]) for path in index.files])
    counts = pc.value_counts(ids["rollout_id"].combine_chunks())
    name = next(entry["values"] for entry in counts.to_pylist() if entry["counts"] > 1)
    return ConfigError(
        f"{index.duplicates} rollouts are in the files twice, {name} for one; import each run by "
        "itself, and name each file once"
    )
