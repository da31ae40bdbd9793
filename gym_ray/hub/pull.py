"""`hub pull`: a dataset repository, at one commit, into a new folder.

Files arrive in `DIR.unfinished`, which becomes DIR when every one of them is there and has the
content the Hub says it has. Re-issued after an interruption, a pull fetches the files that are
missing; of a folder that is there already, it checks the contents and fetches nothing.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fnmatch
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from gym_ray.errors import ConfigError, GymRayError, Interrupted
from gym_ray.hub.parquet_text import JSONL_SUFFIX, convertible, write_jsonl
from gym_ray.hub.repository import MAIN, RemoteFile, Repository
from gym_ray.store.places import UNFINISHED, require_local
from gym_ray.telemetry.progress import Progress

#: Downloads at once.
_WORKERS = 8

#: Where huggingface_hub keeps notes of a download, inside its folder.
_NOTES = ".cache"


@dataclasses.dataclass(frozen=True, slots=True)
class PullReport:
    """What `pull` did.

    Attributes:
        repo_id, revision: where from.
        commit: what the revision stood at.
        output: the folder.
        files: name to bytes.
        fetched: names of the files that were not here.
        converted: JSONL files made of Parquet files.
        seconds: wall time.
    """

    repo_id: str
    revision: str
    commit: str
    output: str
    files: dict[str, int]
    fetched: tuple[str, ...]
    converted: tuple[str, ...]
    seconds: float

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def pull(
    repo_id: str,
    output: str | Path,
    *,
    revision: str = MAIN,
    include: Sequence[str] = (),
    jsonl: bool = False,
    quiet: bool = False,
) -> PullReport:
    """Download a dataset.

    Args:
        repo_id: OWNER/NAME.
        output: folder of the dataset; new, empty, or of the same pull.
        revision: branch, tag or commit.
        include: only files one of these patterns matches; all for none.
        jsonl: make a JSONL file of every Parquet file of tasks that has none, beside it.
        quiet: no progress on standard error.

    Raises:
        ConfigError: there is no such dataset for this token, or the folder holds something else.
        GymRayError: the Hub failed; re-issued, the pull continues.
        Interrupted: by Ctrl-C.
    """
    began = time.monotonic()
    target = require_local(output, "--output")
    if not target.name:
        raise ConfigError(f"--output {str(output)!r} is where you are; name a new folder")
    repository = Repository(repo_id, revision)
    with Progress(quiet=quiet) as progress:
        try:
            progress.update(f"asking {repository.api.endpoint}")
            commit = repository.head()
            wanted = _wanted(repository, commit, include)
            fetched, converted = _fill(target, repository, commit, wanted, jsonl, progress)
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped; re-issue the same command to fetch what is missing"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"--output {str(target)!r}: cannot be written: {error.strerror}; name a folder you "
                "may write to"
            ) from None
    return PullReport(
        repo_id=repo_id,
        revision=revision,
        commit=commit,
        output=str(target),
        files={file.path: file.size for file in wanted.values()},
        fetched=tuple(fetched),
        converted=tuple(converted),
        seconds=time.monotonic() - began,
    )


def _wanted(repository: Repository, commit: str, include: Sequence[str]) -> dict[str, RemoteFile]:
    files = repository.files(commit)
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise GymRayError(f"{repository.url} has a file called {name!r}, which is not fetched")
    if not include:
        return files
    found = {
        name: file
        for name, file in files.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in include)
    }
    if not found:
        raise ConfigError(
            f"{repository.url} has no file that --include {' '.join(include)} matches; it has "
            f"{', '.join(sorted(files)[:10])}{', …' if len(files) > 10 else ''}"
        )
    return found


def _fill(
    target: Path,
    repository: Repository,
    commit: str,
    wanted: Mapping[str, RemoteFile],
    jsonl: bool,
    progress: Progress,
) -> tuple[list[str], list[str]]:
    """Make the target what is wanted; names of files fetched, and of files converted."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        _refuse_other(target, wanted, progress)
        return [], _convert(target, wanted, progress) if jsonl else []
    folder = target.with_name(f"{target.name}.unfinished")
    folder.mkdir(parents=True, exist_ok=True)
    _drop_strangers(folder, wanted)
    missing = _missing(folder, wanted, progress)
    _fetch(folder, repository, commit, missing, progress)
    broken = _missing(folder, {file.path: file for file in missing}, progress)
    if broken:
        for file in broken:
            (folder / file.path).unlink(missing_ok=True)
        raise GymRayError(
            f"{', '.join(file.path for file in broken)}: did not arrive as {repository.url} has "
            "them; re-issue the same command to fetch them again"
        )
    converted = _convert(folder, wanted, progress) if jsonl else []
    shutil.rmtree(folder / _NOTES, ignore_errors=True)
    if target.exists():
        target.rmdir()
    os.replace(folder, target)
    return [file.path for file in missing], converted


def _refuse_other(target: Path, wanted: Mapping[str, RemoteFile], progress: Progress) -> None:
    """Accept a folder that holds what is wanted; nothing in it is ever overwritten."""
    if not target.is_dir():
        raise ConfigError(f"--output {str(target)!r} is a file; name a new folder")
    beside = [_beside(name) for name in wanted if convertible(name)]
    own = {*wanted, *beside, *(f"{name}{UNFINISHED}" for name in beside)}
    strangers = sorted(name for name in _names(target) if name not in own)
    other = strangers or [file.path for file in _missing(target, wanted, progress)]
    if other:
        raise ConfigError(
            f"--output {str(target)!r} holds something else than this revision ({other[0]} is "
            "not the same); name a new folder"
        )


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _drop_strangers(folder: Path, wanted: Mapping[str, RemoteFile]) -> None:
    """Remove what an unfinished pull of something else left in our own folder."""
    for name in _names(folder):
        if name not in wanted and not name.startswith(f"{_NOTES}/"):
            (folder / name).unlink()


def _missing(
    folder: Path, wanted: Mapping[str, RemoteFile], progress: Progress
) -> list[RemoteFile]:
    """The files that are not there with their content."""
    found = []
    for number, file in enumerate(wanted.values()):
        progress.update(f"{number}/{len(wanted)} files checked")
        if not file.matches(folder / file.path):
            found.append(file)
    return found


def _fetch(
    folder: Path,
    repository: Repository,
    commit: str,
    files: Sequence[RemoteFile],
    progress: Progress,
) -> None:
    total = sum(file.size for file in files)
    done = 0

    def fetch(file: RemoteFile) -> int:
        repository.api.hf_hub_download(
            **repository.place, filename=file.path, revision=commit, local_dir=folder
        )
        return file.size

    with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
        futures = [pool.submit(fetch, file) for file in files]
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures)):
                progress.update(
                    f"{number}/{len(files)} files here, {decimal(done)} of {decimal(total)}"
                )
                with repository.explained():
                    done += future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _convert(folder: Path, wanted: Mapping[str, RemoteFile], progress: Progress) -> list[str]:
    """Write what Parquet files of tasks hold as JSONL beside them; names of what was written."""
    written = []
    for name in wanted:
        beside = _beside(name)
        if convertible(name) and not (folder / beside).exists():
            progress.update(f"converting {name}")
            if write_jsonl(folder / name, folder / beside):
                written.append(beside)
    return written


def _beside(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(JSONL_SUFFIX))


def render(report: PullReport) -> str:
    """The report for a terminal."""
    size = decimal(sum(report.files[name] for name in report.fetched))
    kept = len(report.files) - len(report.fetched)
    lines = [
        f"{len(report.fetched)} files fetched, {size}; {kept} were here already",
        *(f"  converted: {name}" for name in report.converted),
        f"dataset: {report.output} ({report.repo_id}@{report.revision}, commit {report.commit})",
    ]
    return "\n".join(lines)
