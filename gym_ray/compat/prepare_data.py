"""`ng_prepare_data`: our `prepare`, and NeMo Gym's files beside the task files.

Beside every task file that is one file: `<stem>_metrics.json`, compared with what was there, and
`<stem>_prepare.jsonl`. In the output folder: what `prepare` writes, the metrics with the facts of
the first dataset before them, as NeMo Gym has it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from gym_ray.compat.arguments import PrepareArguments, parsed
from gym_ray.compat.configs import Configs, read_configs
from gym_ray.compat.metrics_conflicts import differences
from gym_ray.compat.servers import NemoGymDataset, agent_of
from gym_ray.errors import ConfigError, GymRayError
from gym_ray.prepare.metrics_conflicts import conflict_path, read_metrics
from gym_ray.prepare.prepare import prepare
from gym_ray.prepare.prepare_report import PrepareReport, conflict_error, demand_prepared
from gym_ray.prepare.prepared_rows import rows_of
from gym_ray.prepare.task_files import SPLITS, Split, TaskFile, declared
from gym_ray.prepare.task_metrics import TaskMetrics
from gym_ray.store.places import write_text_whole

_SPLITS: dict[str, tuple[Split, ...]] = {
    "train_preparation": ("train", "validation"),
    "example_validation": ("example",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """What was done.

    Attributes:
        report: of `prepare`.
        beside: files written beside the task files.
        notes: what the configs say that has no meaning here.
        conflicts: metrics beside task files that new ones differ from, and how.
    """

    report: PrepareReport
    beside: Sequence[str]
    notes: Sequence[str]
    conflicts: Mapping[str, Sequence[str]]

    def to_json(self) -> str:
        """The report of `prepare`, and the rest."""
        tree = json.loads(self.report.to_json())
        tree |= {"beside": self.beside, "notes": self.notes}
        tree["metrics_conflicts"] |= self.conflicts
        return json.dumps(tree, indent=2, ensure_ascii=False)

    def render(self) -> str:
        """The same for a terminal; the report of `prepare` is told apart."""
        lines = [f"{path}: {each}" for path, found in self.conflicts.items() for each in found]
        return "\n".join([*self.notes, *lines, *self.beside])


def prepare_data(
    texts: Sequence[str], *, on_invalid: Literal["fail", "drop"] = "fail", quiet: bool = False
) -> Prepared:
    """Do what `ng_prepare_data` is asked for; `demand` says whether it could be done.

    Args:
        texts: arguments, `+key=value`.
        on_invalid: as of `prepare`.
        quiet: no progress on standard error.

    Raises:
        ConfigError: an argument or config is wrong, or a task file is not there; nothing was
            written.
        GymRayError: a file beside the task files cannot be written.
    """
    arguments, overrides = parsed(PrepareArguments, texts)
    splits = _SPLITS[arguments.mode]
    configs = read_configs(arguments.config_paths)
    theirs = list(_task_files(configs, splits))
    config = configs.load(overrides)
    files = theirs or [(file, _facts(file)) for file in declared(config, splits)]
    folder = Path(arguments.output_dirpath)
    _check_folder(folder, splits)
    report = prepare(
        config,
        folder,
        task_files=[file for file, _ in files],
        on_invalid=on_invalid,
        compare_metrics=None if arguments.overwrite_metrics_conflicts else differences,
        metrics_facts=_first_facts(files),
        quiet=quiet,
    )
    beside: list[str] = []
    conflicts: dict[str, list[str]] = {}
    for split in report.written:
        for file in _beside(folder, split, files):
            beside += file.write(arguments.overwrite_metrics_conflicts, conflicts)
    if conflicts:
        for name in (f"{split}{end}" for split in report.written for end in (".jsonl", ".parquet")):
            (folder / name).unlink()
        for counts in report.task_files:
            counts.written.clear()
    prepared = Prepared(report, beside, list(_notes(configs)), conflicts)
    if conflicts:
        write_text_whole(folder / "report.json", prepared.to_json() + "\n")
    return prepared


def demand(prepared: Prepared) -> None:
    """Refuse what was not prepared.

    Raises:
        GymRayError: rows were rejected and not to be dropped, metrics are in conflict, or no row
            is left.
    """
    if prepared.conflicts:
        raise conflict_error(map(Path, prepared.conflicts))
    demand_prepared(prepared.report)


_Declared = tuple[TaskFile, Mapping[str, Any]]


def _task_files(configs: Configs, splits: Sequence[Split]) -> Iterator[_Declared]:
    for server in configs.servers:
        for dataset in server.datasets:
            if dataset.type not in splits:
                continue
            key = f"{server.file}: {server.name}.datasets.{dataset.name}"
            if not Path(dataset.jsonl_fpath).exists():
                raise ConfigError(
                    f"{key}: {dataset.jsonl_fpath}: no such file; paths count from the working "
                    "directory, and nothing is downloaded: get the file first"
                )
            agent = agent_of(server, configs.servers)
            file = TaskFile(
                split=dataset.type,
                path=dataset.jsonl_fpath,
                environment=configs.answering(agent),
                name=f"{server.name}.{dataset.name}",
                license=dataset.license,
                weight=dataset.num_repeats,
                key=key,
                agent=agent,
            )
            yield file, dataset.model_dump(mode="json")


def _facts(file: TaskFile) -> dict[str, Any]:
    """A task file of a gym-ray config, as NeMo Gym declares it."""
    keys = dict.fromkeys(NemoGymDataset.model_fields)
    repeats = int(file.weight) if file.weight == int(file.weight) else file.weight
    return keys | {
        "name": file.name,
        "type": file.split,
        "jsonl_fpath": file.path,
        "num_repeats": repeats,
        "license": file.license,
    }


def _first_facts(files: Sequence[_Declared]) -> dict[Split, Mapping[str, Any]]:
    found: dict[Split, Mapping[str, Any]] = {}
    for file, facts in files:
        found.setdefault(file.split, facts)
    return found


def _check_folder(folder: Path, splits: Sequence[Split]) -> None:
    """`prepare` owns its folder, and would take away what another mode left there."""
    others = [folder / f"{split}.jsonl" for split in SPLITS if split not in splits]
    found = next((path for path in others if path.exists()), None)
    if found is not None:
        raise ConfigError(
            f"+output_dirpath={folder}: holds {found.name} of another mode, which would be lost; "
            "name a folder for each mode"
        )


def _notes(configs: Configs) -> Iterator[str]:
    for server in configs.servers:
        for key in server.settings:
            if server.kind != "responses_api_models":
                yield f"{server.file}: {key} is not used to prepare"


class _BesideFile:
    """What goes beside one task file."""

    def __init__(self, path: Path, mark: str, facts: Mapping[str, Any]) -> None:
        self._facts = facts
        self._prepared = path.with_name(f"{path.stem}_prepare{mark}.jsonl")
        self._metrics_path = path.with_name(f"{path.stem}_metrics{mark}.json")
        self._unfinished = self._prepared.with_name(f"{self._prepared.name}.unfinished")
        self._metrics = TaskMetrics()
        self._lines: IO[str] | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[_BesideFile]:
        """Rows can be added while the context lasts."""
        try:
            with open(self._unfinished, "w", encoding="utf-8") as self._lines:
                yield self
        except OSError as error:
            raise GymRayError(
                f"{self._unfinished}: cannot be written: {error.strerror}; NeMo Gym's files stand "
                "beside the task files: copy those to a folder you may write to"
            ) from None
        except BaseException:
            self._unfinished.unlink(missing_ok=True)
            raise

    def add(self, task: str) -> None:
        """A prepared row of the task file."""
        assert self._lines is not None
        self._lines.write(f"{task}\n")
        self._metrics.add(json.loads(task))

    def write(self, overwrite: bool, conflicts: dict[str, list[str]]) -> list[str]:
        """Let the files appear under their names.

        Args:
            overwrite: the metrics that differ.
            conflicts: gets the differences, unless they are overwritten.

        Returns:
            The files written.
        """
        tree = {**self._facts, **self._metrics.to_tree()}
        text = json.dumps(tree, indent=4, ensure_ascii=False) + "\n"
        before = {} if overwrite else read_metrics([self._metrics_path])
        changed = differences(before.get(self._metrics_path.name, {}), tree)
        if changed:
            self._unfinished.unlink()
            conflicts[str(self._metrics_path)] = changed
            write_text_whole(conflict_path(self._metrics_path), text)
            return [str(conflict_path(self._metrics_path))]
        self._unfinished.replace(self._prepared)
        if not before:
            write_text_whole(self._metrics_path, text)
        return [str(self._prepared), str(self._metrics_path)]


def _beside(folder: Path, split: str, files: Sequence[_Declared]) -> list[_BesideFile]:
    """The files of one split, their rows read from what was prepared."""
    found: dict[tuple[str | None, str], _BesideFile] = {}
    used: set[Path] = set()
    for file, facts in files:
        path = Path(file.path)
        if file.split != split or not path.is_file():  # A glob, or generated: no one place.
            continue
        mark = f".{file.name}" if path in used else ""
        used.add(path)
        found[file.environment, file.name] = _BesideFile(path, mark, facts)
    with contextlib.ExitStack() as stack:
        opened = {key: stack.enter_context(file.opened()) for key, file in found.items()}
        for row in rows_of(folder / f"{split}.parquet"):
            writer = opened.get((row["environment"], row["dataset"]))
            if writer is not None:
                writer.add(row["task"])
    return list(found.values())
