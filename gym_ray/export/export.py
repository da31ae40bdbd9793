"""`export`: a training dataset made of stored rollouts, in one pass over whole groups.

The source is only read. The output appears whole, under its name, or not at all. Parts of the
source are converted apart from one another: one after the other here, or by Ray Data tasks where
there are enough to pay for starting Ray; the files are the same either way.

Not owned here: what rows are made of (the recipes), where groups are (source).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.errors import ConfigError, GymRayError, one_line
from gym_ray.export.card import ExportReport, card, counts_of, provenance, published_name
from gym_ray.export.counts import ExportCounts
from gym_ray.export.packing import packing_of
from gym_ray.export.recipe import TRAIN, Recipe
from gym_ray.export.repeats import note, take_out
from gym_ray.export.source import Source, open_source
from gym_ray.store.parquet import OPTIONS
from gym_ray.store.places import (
    make_folder,
    move_folder,
    open_path,
    parquet_file,
    reachable,
    remove_folder,
    written_whole,
)
from gym_ray.store.stored_run import StoredRun
from gym_ray.telemetry.progress import Progress

Kind = Literal["rl", "sft", "dpo", "nemo-gym", "atif"]
Format = Literal["parquet", "jsonl", "both"]

#: Parts below which Ray is not started: it takes longer to start than it saves.
_PARTS_WORTH_RAY = 4

_ALWAYS = ("rollout_id", "task_id", "run_id", "environment", "model")


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What every part needs to know. Picklable.

    Attributes:
        source: the rollouts.
        recipe: what rows they become.
        folder: where files are written, absolute.
        parquet, jsonl: which formats.
    """

    source: Source
    recipe: Recipe
    folder: Path
    parquet: bool
    jsonl: bool


def export(
    rollouts: str | Path | StoredRun,
    output: str | Path,
    kind: Kind,
    recipe: Recipe,
    *,
    format: Format = "both",
    workers: int | None = None,
    license: str | None = None,
    pack_length: int | None = None,
    preset: Mapping[str, Any] = MappingProxyType({}),
    quiet: bool = False,
) -> ExportReport:
    """Write a training dataset.

    Args:
        rollouts: a run directory, finished or not, or a folder of Parquet shards. Of one without
            `run.yaml` the report says what is not known.
        output: folder of the dataset; new, or empty.
        kind: what the recipe makes, for the card.
        recipe: what becomes of the rollouts.
        format: of the files; a recipe that has no Parquet form writes JSONL.
        workers: parts converted at once; more than one by Ray. None decides by the number of
            parts and CPUs.
        license: of the dataset, for its card; None for what the environments' datasets declare.
        pack_length: tokens of a packed sequence, for the statistics; None for the longest row.
        preset: fields of the recipe that the run's objective gave, for the card.
        quiet: no progress on standard error.

    Raises:
        StoredFileError: `run.yaml` or another file of the run is there, and not whole.
        ConfigError: there are no rollouts, they lack what the recipe needs, or the output is not
            empty; nothing is left behind.
        GymRayError: it broke; nothing is left behind.
    """
    began = time.monotonic()
    target = open_path(output)
    run = StoredRun.open(rollouts)
    run.config_if_there()  # Before anything is written: a broken one ends the command.
    source = open_source(run)
    with unfinished(target) as folder, Progress(quiet=quiet) as progress:
        has_table = recipe.schema is not None
        job = Job(
            source=source,
            recipe=recipe,
            folder=folder.resolve(),
            parquet=has_table and format != "jsonl",
            jsonl=not has_table or format != "parquet",
        )
        tally = ExportCounts(rows=collections.Counter(dict.fromkeys(recipe.files, 0)))
        for found in _tallies(job, _workers(source, workers), progress):
            tally.add(found)
        _refuse_without_token_ids(tally, source)
        take_out([_files_of(job, number) for number in range(source.parts)], TRAIN, tally)
        _join(job)
        report = ExportReport(
            kind=kind,
            output=str(target),
            source=published_name(run.path),
            options=dataclasses.asdict(recipe),  # type: ignore[call-overload]
            preset=dict(preset),
            license=license,
            rollouts=tally.rollouts,
            groups=tally.groups,
            pending=run.pending(source.rollouts),
            rows=dict(tally.rows),
            highest_reward=tally.highest_reward,
            widest_difference=tally.widest_difference,
            packing=packing_of(
                tally.lengths, sampled_tokens=tally.sampled_tokens, length=pack_length
            ),
            seconds=time.monotonic() - began,
            **provenance(run, tally.environments),
            **counts_of(tally),
        )
        names = sorted(path.name for path in folder.iterdir())
        (folder / "README.md").write_text(card(report, names))
        (folder / "export.json").write_text(
            dataclasses.replace(report, output=published_name(target)).to_json()
        )
        move_folder(folder, target, last="export.json")
    return report


def write_part(
    job: Job, number: int, seen: Callable[[int], None] = lambda rows: None
) -> ExportCounts:
    """Convert one part, holding one table of whole groups at a time.

    Args:
        job: what is done.
        number: of the part.
        seen: told how many rollouts have been converted.

    Returns:
        What was counted.
    """
    tally = ExportCounts()
    columns = list(dict.fromkeys([*_ALWAYS, *job.recipe.columns]))
    with contextlib.ExitStack() as stack:
        writer = None
        if job.parquet:
            file = stack.enter_context(written_whole(_parquet(job, number)))
            writer = stack.enter_context(pq.ParquetWriter(file, job.recipe.schema, **OPTIONS))
        identities = stack.enter_context(written_whole(_files_of(job, number)[0]))
        texts = (
            {
                name: stack.enter_context(written_whole(_jsonl(job, name, number)))
                for name in job.recipe.files
            }
            if job.jsonl
            else {}
        )
        for table in job.source.tables(number, columns):
            converted = job.recipe.convert(table)
            found = converted.table
            if writer is not None and found is not None and len(found):
                writer.write_table(found, row_group_size=len(found))
            for name, text in texts.items():
                for row in converted.lines[name]:
                    text.write(_json_line(row))
            note(identities, converted.identities)
            if job.jsonl:
                for name, document in converted.documents:
                    path = job.folder / name
                    make_folder(path.parent)
                    path.write_bytes(_json_line(document))
            tally.add(converted.tally)
            seen(len(table))
    return tally


def _files_of(job: Job, number: int) -> tuple[Path, list[Path]]:
    """Where a part notes the identities of its rows, and where it writes the rows."""
    rows = [_parquet(job, number), _jsonl(job, TRAIN, number)]
    return job.folder / f"{TRAIN}-{number:05d}.identities", rows


def _json_line(row: Mapping[str, Any]) -> bytes:
    """One row: readable text, unless it quotes half of a surrogate pair, which is no text."""
    try:
        return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(row)}\n".encode()


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """A folder beside the target, gone afterwards unless it has become the target.

    Raises:
        ConfigError: there is something at the target, or it cannot be written.
    """
    reachable(target, "--output")
    if not target.name:
        raise ConfigError(f"--output {str(target)!r} is where you are; name a new folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--output {str(target)!r} is not empty; name a new folder")
    folder = target.with_name(f"{target.name}.unfinished")
    try:
        # What a killed export left behind.
        remove_folder(folder)
        make_folder(folder)
    except OSError as error:
        raise ConfigError(
            f"--output {str(target)!r}: cannot be written: {error.strerror}; name a folder you may "
            "write to"
        ) from None
    try:
        yield folder
    finally:
        remove_folder(folder)


def _workers(source: Source, asked: int | None) -> int:
    if asked is not None:
        return min(asked, source.parts)
    if source.parts < _PARTS_WORTH_RAY:
        return 1
    return min(os.cpu_count() or 1, source.parts)


def _tallies(job: Job, workers: int, progress: Progress) -> Iterator[ExportCounts]:
    total = job.source.rollouts
    done = 0

    def seen(rows: int) -> None:
        nonlocal done
        done += rows
        progress.update(f"{done}/{total} rollouts read")

    if workers > 1:
        for tally in _by_ray(job, workers, progress):
            seen(tally.rollouts)
            yield tally
        return
    for number in range(job.source.parts):
        try:
            yield write_part(job, number, seen)
        except pa.ArrowException as error:
            raise _broken(error) from error


def _by_ray(job: Job, workers: int, progress: Progress) -> Iterator[ExportCounts]:
    """The same by Ray Data tasks, in the order in which they end."""
    from gym_ray.config.environment import EnvironmentConfig
    from gym_ray.config.load import RunConfig
    from gym_ray.serving.cluster import connect, disconnect

    # Nothing is sampled or verified: the smallest config there is asks for next to nothing.
    cluster = connect(RunConfig(environments={"none": EnvironmentConfig()}), progress.say)
    try:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        parts = ray.data.from_items(
            [{"part": number} for number in range(job.source.parts)],
            override_num_blocks=job.source.parts,
        )

        def convert(row: dict[str, Any]) -> dict[str, Any]:
            return {"tally": pickle.dumps(write_part(job, row["part"]))}

        tasks = ray.data.TaskPoolStrategy(size=workers)
        for row in parts.map(convert, compute=tasks, num_cpus=1).iter_rows():
            tally: ExportCounts = pickle.loads(row["tally"])
            yield tally
    except GymRayError:
        raise
    except Exception as error:
        raise _broken(error) from error
    finally:
        disconnect(cluster)


def _broken(error: Exception) -> GymRayError:
    return GymRayError(f"exporting broke: {one_line(error)}; nothing was written")


def _refuse_without_token_ids(tally: ExportCounts, source: Source) -> None:
    if tally.without_token_ids:
        raise ConfigError(
            f"{tally.without_token_ids} of {source.rollouts} rollouts have no token IDs, "
            "because their policy returns none: they can be exported with `export sft` and "
            "`export dpo`. For RL, collect with a policy that returns token IDs "
            "(policy.engine=vllm, or an openai server that returns them)"
        )


def _join(job: Job) -> None:
    """Make one JSONL file of those of the parts, and drop Parquet files without rows."""
    for file in job.recipe.files if job.jsonl else ():
        with written_whole(job.folder / f"{file}.jsonl") as whole:
            for number in range(job.source.parts):
                path = _jsonl(job, file, number)
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
                path.unlink()
    for path in sorted(job.folder.glob("*.parquet"))[1:]:
        if not parquet_file(path).metadata.num_rows:
            path.unlink()


def _parquet(job: Job, number: int) -> Path:
    return job.folder / f"{TRAIN}-{number:05d}.parquet"


def _jsonl(job: Job, file: str, number: int) -> Path:
    return job.folder / f"{file}-{number:05d}.jsonl.part"
