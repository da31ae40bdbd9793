"""A dataset repository of the Hub: who asks, what is in it, and what its refusals mean.

The token comes from the environment variable HF_TOKEN and from nowhere else, also not from what
`hf auth login` saved; it is sent to the Hub and never printed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gym_ray.errors import ConfigError, GymRayError, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN_VARIABLE = "HF_TOKEN"
MAIN = "main"
_KIND = "dataset"

#: Seconds a connection may be silent where huggingface_hub itself would wait for ever.
_SILENCE_SECONDS = 120.0

_AGAIN = "re-issue the same command: it continues with what is missing"
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the repository.

    Attributes:
        path: its name in the repository.
        size: bytes.
        sha256: of the content; None for small files that git itself keeps.
        blob_id: git's name for the content, where `sha256` is None.
    """

    path: str
    size: int
    sha256: str | None
    blob_id: str

    def matches(self, content: Path | bytes) -> bool:
        """Whether a local file, or bytes, are the same content."""
        try:
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            if size != self.size:
                return False
            with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
                return _digest(file, size, self.sha256 is None) == (self.sha256 or self.blob_id)
        except FileNotFoundError:
            return False


def _digest(file: IO[bytes], size: int, as_git_blob: bool) -> str:
    """The name Git LFS (SHA-256) or git (SHA-1 of a header and the content) has for a content."""
    digest = hashlib.sha256()
    if as_git_blob:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


class Repository:
    """A dataset repository, at a revision.

    Args:
        repo_id: OWNER/NAME.
        revision: branch; for reading also a tag or a commit.
        must_have_token: whether anything is to be written.

    Raises:
        ConfigError: no such name is possible, or the token is missing or no token.
    """

    def __init__(self, repo_id: str, revision: str, *, must_have_token: bool = False) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
            raise ConfigError(f"REPO_ID {repo_id!r} is no dataset's name; write OWNER/NAME")
        self.repo_id = repo_id
        self.revision = revision
        self._token = _token()
        if must_have_token and self._token is None:
            raise ConfigError(
                f"{TOKEN_VARIABLE} is not set: set it to a token that may write to {repo_id} "
                "(https://huggingface.co/settings/tokens)"
            )
        from huggingface_hub import HfApi, get_session
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        get_session().timeout = _SILENCE_SECONDS
        # False: not the token `hf auth login` saved either.
        self.api: HfApi = HfApi(
            token=self._token or False, library_name="gym-ray", user_agent={"gym-ray": "hub"}
        )

    @property
    def place(self) -> dict[str, Any]:
        """The arguments by which huggingface_hub's calls find the repository."""
        return {"repo_id": self.repo_id, "repo_type": _KIND}

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/datasets/{self.repo_id}"

    def head(self) -> str:
        """The commit the revision stands at."""
        with self.explained():
            return str(self.api.repo_info(**self.place, revision=self.revision).sha)

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """Everything in the repository at a commit, by name."""
        from huggingface_hub.hf_api import RepoFile

        with self.explained():
            tree = self.api.list_repo_tree(**self.place, revision=commit, recursive=True)
            found = [entry for entry in tree if isinstance(entry, RepoFile)]
        return {
            file.path: RemoteFile(
                file.path,
                file.size,
                None if file.lfs is None else file.lfs.sha256,
                file.blob_id,
            )
            for file in found
        }

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of huggingface_hub in the block, as ones that say what to do.

        Raises:
            ConfigError: what was asked for is not there, or not for this token.
            GymRayError: the Hub cannot be reached, or fails.
        """
        try:
            yield
        except GymRayError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # Of this machine: a full disk, a file that may not be read.
            raise self._explanation(error) from error

    def _explanation(self, error: Exception) -> GymRayError:
        from huggingface_hub import errors

        cause, status = error, status_of(error)
        while status is None and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
            status = status_of(cause)
        account = f"the account of {TOKEN_VARIABLE}" if self._token else "anybody"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return ConfigError("HF_HUB_OFFLINE is set, and the Hub is asked for; unset it")
        if isinstance(cause, errors.HFValidationError):
            return ConfigError(f"REPO_ID {self.repo_id!r} is no dataset's name; write OWNER/NAME")
        if isinstance(cause, errors.GatedRepoError):
            return ConfigError(f"{self.url} is gated for {account}; ask for access on that page")
        if isinstance(cause, errors.RevisionNotFoundError):
            return ConfigError(
                f"{self.repo_id} has no revision {self.revision!r}; name a branch, tag or commit"
            )
        if isinstance(cause, errors.RepositoryNotFoundError):
            return ConfigError(
                f"{self.url}: there is no such dataset that {account} may see; check the name, and "
                f"for a private one that {TOKEN_VARIABLE} is set to a token that may read it"
            )
        if status == 401:
            return ConfigError(
                f"{self.api.endpoint} does not accept the token in {TOKEN_VARIABLE} (401); set it "
                "to a valid one (https://huggingface.co/settings/tokens), or unset it to read "
                "public datasets"
            )
        if status == 403:
            return ConfigError(
                f"the token in {TOKEN_VARIABLE} may not do that with {self.repo_id} (403); it "
                "needs write access to that owner's datasets"
            )
        if status == 412:
            return GymRayError(f"somebody else changed {self.repo_id} meanwhile; {_AGAIN}")
        if status is None:
            return GymRayError(
                f"{self.api.endpoint} cannot be reached or broke off ({one_line(cause)}); check "
                f"the network and HF_ENDPOINT, then {_AGAIN}"
            )
        return GymRayError(
            f"{self.api.endpoint} answered {status} ({one_line(cause)}); wait, then {_AGAIN}"
        )


def status_of(error: BaseException) -> int | None:
    """The HTTP status an error of huggingface_hub is about; None for none."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _token() -> str | None:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise ConfigError(f"{TOKEN_VARIABLE} holds no token: a token has no spaces and is ASCII")
    return token or None
