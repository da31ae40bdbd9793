"""Storage: files and folders on this machine, on a mounted disk, or in an object store.

A place is a `pathlib.Path`, or, of a URL such as `s3://bucket/run`, a `upath.UPath`, which has the
same interface over fsspec. Owned here is what differs between the two: how a file becomes visible
whole, how one process holds a folder, how Arrow opens a file. Not owned here: credentials, which
are found where the store's own tools find them (environment variables, profiles, instance roles).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from gym_ray.errors import ConfigError, GymRayError, one_line
from gym_ray.store.parquet import OPTIONS, StoredParquet

#: Ending of files that are being written; they never count as part of the dataset.
UNFINISHED = ".unfinished"

#: Objects up to this size are fetched in one request; of larger ones, what is asked for.
_FETCHED_WHOLE_BYTES = 8 * 1024**2

#: Requests to an object store at once, where there are many small files.
_REQUESTS = 16

#: How often the holder of a remote folder says that it is alive, and how long one who waits for it
#: listens before taking over. Compared by what is written and not by clocks, which differ.
_BEAT_SECONDS = 5.0
_SILENCE_SECONDS = 30.0

#: What one installs for a store's URLs.
_EXTRAS = {"s3": "gym-ray[s3]", "gs": "gym-ray[gcs]", "gcs": "gym-ray[gcs]"}

_Output = TypeVar("_Output")


def open_path(name: str | Path) -> Path:
    """What a path or URL names.

    Raises:
        ConfigError: nothing here can read such URLs.
    """
    if not isinstance(name, str) or "://" not in name:
        return Path(name)
    from upath import UPath

    scheme = name.partition("://")[0]
    try:
        # Listings change under us: other processes write there.
        found = UPath(name, use_listings_cache=False)
        _ = found.fs
    except (ImportError, ValueError) as error:
        hint = f"pip install '{_EXTRAS[scheme]}'" if scheme in _EXTRAS else one_line(error)
        raise ConfigError(f"{name}: {scheme}:// cannot be read here: {hint}") from None
    # It does all that a Path does, except being one.
    return cast(Path, found)


def require_local(name: str | Path, key: str) -> Path:
    """What a path names, where a URL cannot be taken.

    Args:
        name: as the user gave it.
        key: where.

    Raises:
        ConfigError: it is a URL, which as a path would be a folder called `s3:`.
    """
    if "://" in str(name):
        raise ConfigError(f"{key} {str(name)!r}: only a local or mounted place is taken here")
    return Path(name)


def is_remote(path: Path) -> bool:
    """Whether a place is in an object store."""
    return not isinstance(path, Path)


def reachable(path: Path, key: str) -> None:
    """Ask a store for a place, to fail early and with a reason.

    Args:
        path: what is to be read or written.
        key: where the user named it.

    Raises:
        ConfigError: no such bucket, no credentials, not allowed, or no answer.
    """
    if not is_remote(path):
        return
    try:
        path.exists()
        _filesystem(path).ls(_object(path).rpartition("/")[0] or _object(path))
    except FileNotFoundError as error:
        if _object(path).count("/") < 2:
            raise ConfigError(f"{key} {path}: no such bucket: {one_line(error)}") from None
    except Exception as error:
        raise ConfigError(
            f"{key} {path}: the store refuses: {one_line(error)}; set its credentials as its own "
            "tools want them (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        ) from None


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A new file's content; the file is either absent or whole, also after a power cut.

    What stood there is replaced once the context ends, and stays where it ends in an error.
    """
    if is_remote(path):
        with tempfile.NamedTemporaryFile(prefix="gym-ray-") as spool:
            yield cast(IO[bytes], spool)
            spool.flush()
            _filesystem(path).put_file(spool.name, _object(path))
        return
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with written_whole(path) as file:
        file.write(text.encode())


def write_table_whole(path: Path, table: pa.Table) -> None:
    """Write a Parquet file in one step."""
    with written_whole(path) as file:
        pq.write_table(table, file, **OPTIONS)


def parquet_file(path: Path) -> StoredParquet:
    """Open a Parquet file; raises `FileTorn`, now or while reading, where it is not whole."""
    if not is_remote(path):
        return StoredParquet(path)
    store, name = _filesystem(path), _object(path)
    if store.size(name) <= _FETCHED_WHOLE_BYTES:
        return StoredParquet(path, pa.BufferReader(store.cat_file(name)))
    # Arrow asks for the ranges it needs; a cache of ours would fetch more.
    return StoredParquet(path, store.open(name, "rb", cache_type="none"), pre_buffer=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; stores have none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder with all it holds, if it is there."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        _filesystem(path).rm(_object(path), recursive=True)


def move_folder(source: Path, target: Path, *, last: str) -> None:
    """Give a finished folder its name.

    In a store files move one by one: the one named `last` says that all are there.
    """
    if not is_remote(target):
        if target.exists():
            target.rmdir()
        os.replace(source, target)
        return
    store = _filesystem(target)
    files = [path for path in source.rglob("*") if not path.is_dir()]
    for path in sorted(files, key=lambda path: (path.name == last, str(path))):
        store.copy(_object(path), _object(target / path.relative_to(source)))
    remove_folder(source)


def remove_unfinished(directory: Path) -> None:
    """Delete the files killed writers left behind. Only safe while nobody writes.

    An unfinished folder, and what is in it, is somebody else's: of an export into the directory.
    """
    if not is_remote(directory):
        for path in directory.rglob(f"*{UNFINISHED}"):
            above = path.relative_to(directory).parents
            if path.is_file() and not any(folder.suffix == UNFINISHED for folder in above):
                path.unlink(missing_ok=True)


def content_tag(path: Path) -> str:
    """Hexadecimal digest that changes when a file's content does.

    Of an object, of the tag its store keeps; else of its size and time.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    facts = _filesystem(path).info(_object(path))
    tag = next((facts[key] for key in ("ETag", "etag", "blob_id") if facts.get(key)), None)
    if tag is None:
        tag = [str(facts.get(key)) for key in ("size", "LastModified", "mtime", "created")]
    return hashlib.sha256(json.dumps(tag).encode()).hexdigest()


def each(paths: Sequence[Path], ask: Callable[[Path], _Output]) -> Iterable[_Output]:
    """Ask every file something, in order; several requests at once where each takes a while."""
    if not any(is_remote(path) for path in paths):
        return map(ask, paths)
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(ask, paths))


class InUse(Exception):
    """Another process holds the folder."""


class Hold:
    """A folder held by this process against others, until `release`."""

    def __init__(self, release: Callable[[], None], check: Callable[[], None]) -> None:
        self._release = release
        self.check = check

    def release(self) -> None:
        """Let others have it. A second call does nothing."""
        release, self._release = self._release, lambda: None
        release()

    @classmethod
    def take(cls, folder: Path) -> Hold:
        """Hold a folder.

        Raises:
            InUse: another process does.
            OSError: it cannot be written.
        """
        return cls._remote(folder) if is_remote(folder) else cls._local(folder)

    @classmethod
    def _local(cls, folder: Path) -> Hold:
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        _flock(lock, fcntl.LOCK_EX)
        return cls(lambda: os.close(lock), lambda: None)

    @classmethod
    def _remote(cls, folder: Path) -> Hold:
        lease = _Lease(folder / ".lock")
        return cls(lease.release, lease.check)


@contextlib.contextmanager
def unwritten(folder: Path) -> Iterator[None]:
    """Keep a folder from being held by a writer while it is read.

    In a store it is only seen to that nobody holds it at the beginning.

    Raises:
        InUse: somebody does.
    """
    if is_remote(folder):
        lease = folder / ".lock"
        if lease.exists() and not _is_silent(lease):
            raise InUse
        yield
        return
    try:
        lock = os.open(folder / ".lock", os.O_RDONLY)
        _flock(lock, fcntl.LOCK_SH)
    except OSError:  # None there, or in a folder that cannot be written anyway, or be locked.
        yield
        return
    try:
        yield
    finally:
        os.close(lock)


class _Lease:
    """An object that its owner rewrites every few seconds, so that others see it is alive.

    Created only where there is none, which stores do atomically. Taking over one that has fallen
    silent is not atomic: should two do so at once, one finds at its next beat that the lease is
    not its own, and `check` raises from then on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._lost = False
        self._ended = threading.Event()
        try:
            self._create()
        except FileExistsError:
            if not _is_silent(path):
                raise InUse from None
            path.unlink(missing_ok=True)
            try:
                self._create()
            except FileExistsError:
                raise InUse from None
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        if self._lost:
            raise GymRayError(
                f"{self._path.parent}: another gym-ray process has taken it over, because this "
                f"one was silent for {_SILENCE_SECONDS:.0f} s; what was collected is kept"
            )

    def release(self) -> None:
        self._ended.set()
        self._thread.join(_SILENCE_SECONDS)
        with contextlib.suppress(Exception):
            if self._is_mine():
                self._path.unlink(missing_ok=True)

    def _create(self) -> None:
        store, name = _filesystem(self._path), _object(self._path)
        store.pipe_file(name, self._content(), mode="create")

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            # A beat that does not get through is followed by the next; `check` is for lost leases.
            with contextlib.suppress(Exception):
                if not self._is_mine():
                    self._lost = True
                    return
                _filesystem(self._path).pipe_file(_object(self._path), self._content())

    def _is_mine(self) -> bool:
        try:
            return bool(json.loads(_content(self._path))["owner"] == self._owner)
        except FileNotFoundError:
            return False

    def _content(self) -> bytes:
        return json.dumps({"owner": self._owner, "beat": uuid.uuid4().hex}).encode()


def _is_silent(lease: Path) -> bool:
    """Whether nobody has rewritten a lease for a while."""
    try:
        before = _content(lease)
        until = time.monotonic() + _SILENCE_SECONDS
        while time.monotonic() < until:
            time.sleep(1.0)
            if _content(lease) != before:
                return False
    except FileNotFoundError:
        pass
    return True


def _content(path: Path) -> bytes:
    found: bytes = _filesystem(path).cat_file(_object(path))
    return found


def _flock(lock: int, kind: int) -> None:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InUse from None
    except OSError:  # Such as a file system without locks.
        os.close(lock)
        raise


def _filesystem(path: Path) -> Any:
    return cast(Any, path).fs


def _object(path: Path) -> str:
    return str(cast(Any, path).path)
