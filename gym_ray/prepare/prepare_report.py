"""What `prepare` did, for a person and for machines. Rejected rows are listed in a file of their
own, one line each, since there may be millions; the first of them are here, too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.errors import GymRayError
from gym_ray.prepare.checking import RejectedRow
from gym_ray.prepare.metrics_conflicts import conflict_path
from gym_ray.prepare.task_files import TaskFile

#: Rejections shown in the report itself.
SHOWN_REJECTIONS = 100


@dataclasses.dataclass(slots=True)
class TaskFileCounts:
    """What became of the rows of a task file.

    Attributes:
        task_file: which.
        read: rows there were; blank lines are none.
        rejected: rows that are no legal tasks.
        duplicates: legal rows left out because their content had been there.
        written: rows written, by prepared file. With weights a row may count twice, or not at all.
    """

    task_file: TaskFile
    read: int = 0
    rejected: int = 0
    duplicates: int = 0
    written: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class PrepareReport:
    """Counts that add up, and the rejected rows.

    Attributes:
        output: folder of the prepared files.
        on_invalid: what was asked for: `fail` writes nothing when a row is rejected.
        task_files: in reading order.
        rejections: the first of them; `rejected.jsonl` has all.
        seconds: the command took.
        conflicts: metrics files of the folder that the new ones differ from, and how; where there
            are any, no rows were written.
        overlap: different tasks that are in training files and in validation files.
    """

    output: str
    on_invalid: str
    task_files: Sequence[TaskFileCounts]
    rejections: Sequence[RejectedRow]
    seconds: float
    conflicts: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    overlap: int = 0

    @property
    def read(self) -> int:
        return sum(counts.read for counts in self.task_files)

    @property
    def rejected(self) -> int:
        return sum(counts.rejected for counts in self.task_files)

    @property
    def written(self) -> dict[str, int]:
        """Rows by prepared file."""
        total: dict[str, int] = {}
        for counts in self.task_files:
            for split, rows in counts.written.items():
                total[split] = total.get(split, 0) + rows
        return total

    def to_json(self) -> str:
        """The content of `report.json`."""
        tree: dict[str, Any] = {
            "output": self.output,
            "on_invalid": self.on_invalid,
            "read": self.read,
            "rejected": self.rejected,
            "written": self.written,
            "overlap": self.overlap,
            "task_files": [
                {
                    "name": counts.task_file.name,
                    "type": counts.task_file.split,
                    "environment": counts.task_file.environment,
                    "path": counts.task_file.path,
                    "license": counts.task_file.license,
                    "weight": counts.task_file.weight,
                    "prompt": counts.task_file.prompt,
                    "read": counts.read,
                    "rejected": counts.rejected,
                    "duplicates": counts.duplicates,
                    "written": counts.written,
                }
                for counts in self.task_files
            ],
            "rejections": [dataclasses.asdict(rejection) for rejection in self.rejections],
            "rejections_in": "rejected.jsonl",
            "metrics_conflicts": dict(self.conflicts),
            "seconds": round(self.seconds, 3),
        }
        return json.dumps(tree, indent=2, ensure_ascii=False)


def render(report: PrepareReport) -> str:
    """The report for a terminal."""
    lines = [
        f"{rejection.file}:{rejection.line}: row {rejection.reason}"
        for rejection in report.rejections
    ]
    unshown = report.rejected - len(report.rejections)
    if unshown > 0:
        lines.append(f"… and {unshown} more, in {report.output}/rejected.jsonl")
    for counts in report.task_files:
        written = ", ".join(f"{rows} to {split}" for split, rows in counts.written.items())
        left_out = f", {counts.duplicates} duplicates" if counts.duplicates else ""
        lines.append(
            f"{counts.task_file.name}: {counts.read} rows read, {counts.rejected} rejected"
            f"{left_out}; {written or 'none'} written"
        )
    if report.overlap:
        lines.append(
            f"{report.overlap} tasks are to train on and to validate with; --deduplicate leaves "
            "them out of the training rows"
        )
    for path, changed in report.conflicts.items():
        lines += [f"{report.output}/{path}: {change}" for change in changed]
    for split, rows in report.written.items():
        lines.append(f"{report.output}/{split}.jsonl: {rows} rows")
    return "\n".join(lines)


def demand_prepared(report: PrepareReport) -> None:
    """Refuse a report of a command that did not prepare what it was given.

    Raises:
        GymRayError: rows were rejected and not to be dropped, metrics are in conflict, or no row
            is left.
    """
    if report.rejected and report.on_invalid == "fail":
        raise GymRayError(
            f"{report.rejected} of {report.read} rows are no legal tasks, and nothing was written; "
            f"{report.output}/rejected.jsonl lists them. Correct them, or leave them out with "
            "--on-invalid drop"
        )
    if report.conflicts:
        raise conflict_error(Path(report.output) / name for name in report.conflicts)
    if not report.written:
        raise GymRayError(f"no row is left of {report.read}; see {report.output}/report.json")


def conflict_error(paths: Iterable[Path]) -> GymRayError:
    """What to say of metrics files that are not what rows give now."""
    old = list(paths)
    new = ", ".join(str(conflict_path(path)) for path in old)
    return GymRayError(
        f"metrics are not what {', '.join(map(str, old))} says, so the rows changed, or how they "
        f"are counted; no rows were written, and the new metrics are in {new}. If they are right, "
        "delete the old ones, or have them overwritten (--on-metrics-conflict overwrite; "
        "+overwrite_metrics_conflicts=true)"
    )
