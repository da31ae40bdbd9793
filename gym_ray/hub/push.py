"""`hub push`: a folder to a dataset repository, in one commit.

Contents go first, the commit that names them last: whoever reads the repository sees all of a push
or nothing of it. Re-issued after an interruption, a push sends only what the Hub does not have,
which is decided by content and not by what an earlier command remembers.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

from gym_ray.errors import ConfigError, GymRayError, Interrupted, pauses
from gym_ray.hub.cards import data_patterns
from gym_ray.hub.contents import CARD, Contents, open_contents
from gym_ray.hub.repository import MAIN, Repository, status_of
from gym_ray.store.places import require_local
from gym_ray.telemetry.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

#: Files handed to huggingface_hub at once; it sends up to five at a time.
_BATCH_FILES = 5

#: Tries of the commit, and `pauses` between them.
_COMMIT_TRIES = 3
_COMMIT_WAIT_SECONDS = 1.0
_COMMIT_WAIT_MAXIMUM_SECONDS = 8.0


@dataclasses.dataclass(frozen=True, slots=True)
class PushReport:
    """What `push` did, or would do.

    Attributes:
        repo_id, revision: where to.
        kind: `rollouts`, `export` or `tasks`.
        files: of the dataset: name to bytes.
        card: the README's text.
        dry_run: nothing was sent, and the Hub was not asked.
        sent: names of the files the Hub did not have.
        removed: names of the files that were there and are not in the folder.
        url: of the dataset; None for a dry run.
        commit: what the revision stands at; None for a dry run.
        seconds: wall time.
    """

    repo_id: str
    revision: str
    kind: str
    files: dict[str, int]
    card: str
    dry_run: bool
    sent: tuple[str, ...]
    removed: tuple[str, ...]
    url: str | None
    commit: str | None
    seconds: float

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    revision: str = MAIN,
    private: bool = False,
    license: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> PushReport:
    """Upload a dataset.

    Args:
        folder: a finished run, an export, or prepared tasks.
        repo_id: OWNER/NAME; created where it is not there.
        revision: branch, created where it is not there.
        private: of the repository: visible to its owner only.
        license: for the card that is made, as the Hub calls it (`apache-2.0`).
        replace: data in the repository that the folder does not have is removed.
        dry_run: look at the folder only.
        quiet: no progress on standard error.

    Raises:
        ConfigError: the folder cannot be published, or the Hub refuses.
        GymRayError: the Hub failed; re-issued, the push continues.
        Interrupted: by Ctrl-C.
    """
    began = time.monotonic()
    with (
        open_contents(require_local(folder, "FOLDER"), license) as contents,
        Progress(quiet=quiet) as progress,
    ):
        if contents.must_stay_private and not private:
            raise ConfigError(
                f"{folder} has rows under {contents.must_stay_private!r}; push it with --private"
            )
        sizes = {file.name: file.size for file in contents.files}
        sizes[CARD] = len(contents.card.encode())
        commit: str | None = None
        url: str | None = None
        sent: list[str] = []
        removed: list[str] = []
        if not dry_run:
            repository = Repository(repo_id, revision, must_have_token=True)
            try:
                progress.update(f"asking {repository.api.endpoint}")
                _make_ready(repository, private=private)
                commit, sent, removed = _Push(repository, contents, replace, progress).run()
            except KeyboardInterrupt:
                raise Interrupted(
                    "stopped; re-issue the same command to send what is missing"
                ) from None
            url = repository.url
    return PushReport(
        repo_id=repo_id,
        revision=revision,
        kind=contents.kind,
        files=sizes,
        card=contents.card,
        dry_run=dry_run,
        sent=tuple(sent),
        removed=tuple(removed),
        url=url,
        commit=commit,
        seconds=time.monotonic() - began,
    )


def _make_ready(repository: Repository, *, private: bool) -> None:
    """Create the repository and the branch where they are not there."""
    api, place = repository.api, repository.place
    with repository.explained():
        # None: of one that is there, what it is stays.
        api.create_repo(**place, private=private or None, exist_ok=True)
        if private and api.repo_info(**place).private is False:
            raise ConfigError(
                f"{repository.url} is public, and --private does not change that: make it private "
                "in its settings, or name another"
            )
        if repository.revision != MAIN:
            api.create_branch(**place, branch=repository.revision, exist_ok=True)


class _Push:
    """One push of a folder's contents into a repository that is there."""

    def __init__(
        self, repository: Repository, contents: Contents, replace: bool, progress: Progress
    ) -> None:
        self._repository = repository
        self._contents = contents
        self._replace = replace
        self._progress = progress

    def run(self) -> tuple[str, list[str], list[str]]:
        """The commit at the end, and the names of what was sent and what was removed."""
        sent: dict[str, None] = {}
        removed: list[str] = []
        backoff = pauses(_COMMIT_WAIT_SECONDS, _COMMIT_WAIT_MAXIMUM_SECONDS)
        for attempt in range(1, _COMMIT_TRIES + 1):
            head = self._repository.head()
            additions, stale = self._missing(head)
            if not additions and not stale:
                return head, list(sent), removed
            removed = stale
            sent |= dict.fromkeys(addition.path_in_repo for addition in additions)
            self._send(additions)
            with self._repository.explained():
                try:
                    commit = self._commit(head, additions, stale)
                except Exception as error:
                    if attempt == _COMMIT_TRIES or not _may_pass(error):
                        raise
                else:
                    self._check(commit)
                    return commit, list(sent), removed
            # The answer may have been lost and the commit made: look before repeating it.
            time.sleep(next(backoff))
        raise AssertionError("the last try returns or raises")

    def _missing(self, head: str) -> tuple[list[CommitOperationAdd], list[str]]:
        """What the Hub does not have at a commit, and the data it has beyond the folder's."""
        from huggingface_hub import CommitOperationAdd

        self._progress.update("comparing with what is there")
        there = self._repository.files(head)
        card = self._contents.card.encode()
        content: dict[str, Path | bytes] = {f.name: f.path for f in self._contents.files}
        content[CARD] = card
        additions = [
            CommitOperationAdd(name, data)
            for name, data in content.items()
            if name not in there or not there[name].matches(data)
        ]
        patterns = data_patterns(self._contents.card)
        stale = sorted(
            name
            for name in there
            if name not in content and any(fnmatch.fnmatchcase(name, p) for p in patterns)
        )
        if stale and not self._replace:
            raise ConfigError(
                f"{self._repository.url} has data that the folder does not ({stale[0]}"
                f"{', …' if len(stale) > 1 else ''}), which would be loaded with it; remove it "
                "with --replace, or name another repository"
            )
        return additions, stale

    def _send(self, additions: Sequence[CommitOperationAdd]) -> None:
        """Upload contents, without a commit that names them."""
        total = sum(addition.upload_info.size for addition in additions)
        done = 0
        for start in range(0, len(additions), _BATCH_FILES):
            batch = additions[start : start + _BATCH_FILES]
            self._progress.update(
                f"{start}/{len(additions)} files sent, {decimal(done)} of {decimal(total)}"
            )
            with self._repository.explained():
                self._repository.api.preupload_lfs_files(
                    self._repository.repo_id,
                    additions=batch,
                    repo_type="dataset",
                    revision=self._repository.revision,
                    free_memory=False,
                )
            done += sum(addition.upload_info.size for addition in batch)

    def _commit(
        self, head: str, additions: Sequence[CommitOperationAdd], stale: Sequence[str]
    ) -> str:
        from huggingface_hub import CommitOperationDelete

        self._progress.update(f"committing {len(additions)} files")
        info = self._repository.api.create_commit(
            **self._repository.place,
            operations=[*additions, *map(CommitOperationDelete, stale)],
            commit_message=f"gym-ray hub push: {self._contents.kind}",
            revision=self._repository.revision,
            parent_commit=head,
        )
        return str(info.oid)

    def _check(self, commit: str) -> None:
        """A .gitignore in the repository makes huggingface_hub leave files out, and say nothing."""
        there = self._repository.files(commit)
        lacking = [file.name for file in self._contents.files if file.name not in there]
        if lacking:
            raise GymRayError(
                f"{self._repository.url} did not take {', '.join(lacking)}; see its .gitignore"
            )


def _may_pass(error: Exception) -> bool:
    """Whether another try of the commit may succeed."""
    status = status_of(error)
    if status is None:
        return not isinstance(error, ValueError)
    return status == 429 or status >= 500


def render(report: PushReport) -> str:
    """The report for a terminal."""
    total = decimal(sum(report.files.values()))
    listing = [f"  {decimal(size):>9}  {name}" for name, size in report.files.items()]
    if report.dry_run:
        lines = [f"would send to {report.repo_id}@{report.revision}: {total}", *listing]
        return "\n".join([*lines, f"{CARD}:", report.card, "nothing was sent (--dry-run)"])
    sent = sum(report.files[name] for name in report.sent)
    kept = len(report.files) - len(report.sent)
    lines = [f"{len(report.sent)} files sent, {decimal(sent)}; {kept} were there already"]
    lines += [f"  removed: {name}" for name in report.removed]
    return "\n".join([*lines, f"dataset: {report.url} (commit {report.commit})"])
