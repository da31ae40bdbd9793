"""What a folder holds that can be published: a finished run, an export, or prepared tasks.

Nothing else is ever sent: files the commands did not make stay where they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from gym_ray.atif.trajectories import TRAJECTORIES
from gym_ray.collection.summary import RunSummary
from gym_ray.config.secret_values import secret_settings
from gym_ray.errors import ConfigError
from gym_ray.hub.cards import checked_card, prepared_card, rollouts_card
from gym_ray.prepare.task_files import SPLITS
from gym_ray.store.places import parquet_file
from gym_ray.store.run_directory import kept_from_writers
from gym_ray.store.segments import SegmentStore
from gym_ray.store.stored_config import CONFIG_FILE
from gym_ray.store.stored_run import StoredRun
from gym_ray.store.stored_text import stored_object

CARD = "README.md"
Kind = Literal["rollouts", "export", "tasks"]

_PREPARED_SUFFIXES = (".jsonl", ".parquet", "_metrics.json")


@dataclasses.dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send.

    Attributes:
        name: in the repository.
        path: on this machine.
        size: bytes.
    """

    name: str
    path: Path
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What is published of a folder.

    Attributes:
        kind: what it holds.
        files: data, and what tells about it, without the card.
        card: text of the README.
        must_stay_private: a license of its rows that forbids publishing, or None.
    """

    kind: Kind
    files: tuple[LocalFile, ...]
    card: str
    must_stay_private: str | None = None


@contextlib.contextmanager
def open_contents(folder: Path, license: str | None) -> Iterator[Contents]:
    """Look at a folder, and keep commands from writing to it while it is being sent.

    Args:
        folder: output of `collect`, `reverify`, `export` or `prepare`.
        license: for a card that is made here; a README.md of the folder says its own.

    Raises:
        ConfigError: it holds none of these, is not finished, or would tell a secret.
    """
    run = StoredRun.open(folder)
    if (folder / CONFIG_FILE).exists():
        with kept_from_writers(folder):
            yield _run(run, license)
    elif (folder / "export.json").is_file():
        yield _export(folder, license)
    elif (folder / "report.json").is_file():
        yield _prepared(folder, license)
    else:
        raise ConfigError(
            f"{folder}: is no dataset of gym-ray (it has no {CONFIG_FILE}, export.json or "
            "report.json); name the output folder of collect, reverify, export or prepare"
        )


def _run(run: StoredRun, license: str | None) -> Contents:
    folder, config = run.path, run.config
    if config.facts.get("kind") == "serve":
        raise ConfigError(
            f"{folder}: holds rollouts of `gym-ray serve`, which go on for as long as it runs; "
            "make a dataset of them with `gym-ray export` and push that"
        )
    shards = sorted((folder / "rollouts").glob("*.parquet"))
    again = "re-issue the command that collects it and push what it has finished"
    segments = sum(1 for _ in SegmentStore(folder / "segments").files())
    if segments or not shards or not run.summary_file.exists():
        raise ConfigError(
            f"{folder}: the run is not finished ({segments} segments are not in shards yet); "
            f"{again}, or push an export of what there is"
        )
    summary = RunSummary.read(run.summary_file)
    rows = sum(int(parquet_file(shard).metadata.num_rows) for shard in shards)
    if summary.pending or rows != summary.expected:
        raise ConfigError(
            f"{folder}: holds {rows} of {summary.expected} rollouts; {again}, or push an export of "
            "what there is"
        )
    secrets = secret_settings({**config.tree, "run": config.facts})
    if secrets:
        raise ConfigError(
            f"{config.file}: {', '.join(secrets)} would tell a secret; replace the value "
            "there (the run is finished and does not need it), and in the next config write "
            "${oc.env:NAME} or name the variable where the section has a key for it"
        )
    beside = [run.config_file, run.summary_file, folder / "reverify.json", run.manifest_file]
    paths = [path for path in beside if path.is_file()] + shards
    files = _files(folder, paths)
    card = _card(folder, license, files, lambda: rollouts_card(summary, config, license))
    declared = run.licenses(config.section("environments"))
    licenses = [name for datasets in declared.values() for name in datasets.values()]
    return Contents("rollouts", files, card, must_stay_private=_forbidding(licenses))


def _export(folder: Path, license: str | None) -> Contents:
    if not (folder / CARD).is_file():
        raise ConfigError(f"{folder}: lacks the {CARD} that `gym-ray export` wrote; export again")
    report = stored_object(folder / "export.json")
    paths = [folder / "export.json"]
    for name in report.get("rows") or ():
        paths += folder.glob(f"{name}-[0-9]*.parquet")
        paths += folder.glob(f"{name}.jsonl")
    if report.get("kind") == "atif":
        paths += folder.glob(f"{TRAJECTORIES}/*.json")  # Of `--one-file-each`.
    files = _files(folder, paths)
    declared = report.get("task_licenses") or {}
    licenses = [name for datasets in declared.values() for name in datasets.values()]
    card = _card(folder, license, files, str)
    return Contents("export", files, card, must_stay_private=_forbidding(licenses))


def _prepared(folder: Path, license: str | None) -> Contents:
    report = stored_object(folder / "report.json")
    counts = report.get("written")
    if not isinstance(counts, dict):
        raise ConfigError(f"{folder}/report.json: is not of `gym-ray prepare`")
    splits = [split for split in SPLITS if (folder / f"{split}.parquet").is_file()]
    if not splits or not any(counts.get(split) for split in splits):
        raise ConfigError(
            f"{folder}: `gym-ray prepare` wrote no rows there ({report.get('rejected')} were "
            "rejected); correct them, prepare again, then push"
        )
    names = [f"{split}{suffix}" for split in splits for suffix in _PREPARED_SUFFIXES]
    paths = [path for name in names if (path := folder / name).is_file()]
    licenses = [file.get("license") for file in report.get("task_files", [])]
    files = _files(folder, [*paths, folder / "report.json"])
    card = _card(folder, license, files, lambda: prepared_card(report, splits, license))
    return Contents("tasks", files, card, must_stay_private=_forbidding(licenses))


def _forbidding(licenses: Iterable[str | None]) -> str | None:
    """The first of the licenses that forbids publishing; None where none does."""
    return min((name for name in licenses if name and "Do Not Distribute" in name), default=None)


def _card(
    folder: Path, license: str | None, files: Sequence[LocalFile], make: Callable[[], str]
) -> str:
    """The folder's own README.md where there is one, else one made for it."""
    path = folder / CARD
    if not path.is_file():
        return make()
    if license is not None:
        raise ConfigError(
            f"--license: {path} is the card; write `license: {license}` into its front matter"
        )
    return checked_card(path, [file.name for file in files])


def _files(folder: Path, paths: list[Path]) -> tuple[LocalFile, ...]:
    return tuple(
        LocalFile(path.relative_to(folder).as_posix(), path, path.stat().st_size)
        for path in sorted(paths)
    )
