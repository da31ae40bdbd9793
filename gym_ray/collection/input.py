"""Task input: lines of JSONL files, compressed or not, rows of Parquet files, or what an
environment generates. Streamed.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from gym_ray.collection.jsonl_text import text_lines
from gym_ray.collection.parquet_tasks import PARQUET_SUFFIX, check_parquet, parquet_rows
from gym_ray.config.load import RunConfig
from gym_ray.environment import Environment
from gym_ray.errors import ConfigError, one_line
from gym_ray.store.places import content_tag, open_path, reachable

GENERATED_PREFIX = "env:"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

#: Lines looked at to see whether a file is one of task rows at all.
_LOOKED_AT = 20


@dataclasses.dataclass(frozen=True, slots=True)
class InputLine:
    """One task row as it stands in its source.

    Attributes:
        source_file: path, or `env:NAME` for generated rows.
        source_line: counted from 1; of Parquet, the row.
        raw: the line's bytes without its end.
    """

    source_file: str
    source_line: int
    raw: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFingerprint:
    """What a source looked like: enough to notice that it changed.

    Attributes:
        source_file: path, or `env:NAME`.
        size: bytes; 0 for generated rows.
        sha256: of the content, of the tag an object store has for it, or of the generating config.
    """

    source_file: str
    size: int
    sha256: str


class TaskInput:
    """The rows that `collect.input` or another key names.

    Args:
        config: the whole config.
        environments: built environments by name, for `env:NAME`.
        name: which rows; by default what `collect.input` names.
        key: what messages call the place where the name stands.
        raw: task rows are yet to be made of these, so that Parquet needs no column of prompts.

    Raises:
        ConfigError: no such file, no such environment, or a form not supported.
    """

    def __init__(
        self,
        config: RunConfig,
        environments: dict[str, Environment],
        *,
        name: str | None = None,
        key: str = "collect.input",
        raw: bool = False,
    ) -> None:
        self._name = config.collect.input if name is None else name
        self._key = key
        self._generator: Environment | None = None
        self._files: Sequence[Path] = ()
        self._digest = ""
        if self._name.startswith(GENERATED_PREFIX):
            name = self._name.removeprefix(GENERATED_PREFIX)
            if name not in environments:
                raise ConfigError(
                    f"{self._key} {self._name!r}: no environment {name!r} is configured; "
                    f"configured: {', '.join(environments)}"
                )
            self._generator = environments[name]
            section = config.environments[name].model_dump(include={"entrypoint", "params"})
            self._digest = hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()
        else:
            self._files = _find(self._name, key, Path(config.base_directory), raw=raw)

    @property
    def files(self) -> list[Path]:
        """The files that are read; none where rows are generated."""
        return list(self._files)

    @property
    def names(self) -> str:
        """What is read, for a person."""
        return self._name if self._generator is not None else ", ".join(map(str, self._files))

    def fingerprints(self) -> list[SourceFingerprint]:
        """One per source, in reading order. Reads every file once."""
        if self._generator is not None:
            return [SourceFingerprint(self._name, 0, self._digest)]
        found = []
        for path in self._files:
            found.append(SourceFingerprint(str(path), path.stat().st_size, content_tag(path)))
        return found

    def lines(self) -> Iterator[InputLine]:
        """Every row, blank lines left out.

        Raises:
            ConfigError: a compressed file is damaged, or a line is longer than a row may be.
        """
        if self._generator is not None:
            yield from self._generated(self._generator)
            return
        for path in self._files:
            if path.suffix == PARQUET_SUFFIX:
                for number, text in enumerate(parquet_rows(path), start=1):
                    yield InputLine(str(path), number, text)
                continue
            for number, line in enumerate(text_lines(path, self._key), start=1):
                raw = line.rstrip(b"\r\n")
                if number == 1:
                    raw = raw.removeprefix(_BYTE_ORDER_MARK)
                if raw.strip():
                    yield InputLine(str(path), number, raw)

    def _generated(self, generator: Environment) -> Iterator[InputLine]:
        number = 1
        try:
            for row in generator.tasks():
                text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
                # What is no text comes out as an invalid row, with the reason.
                yield InputLine(self._name, number, text.encode("utf-8", "surrogatepass"))
                number += 1
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self._key} {self._name!r}: {type(generator).__name__}.tasks() failed at row "
                f"{number}: {one_line(error)}"
            ) from error


def _find(name: str, key: str, folder: Path, *, raw: bool) -> list[Path]:
    if "://" in name:
        paths = _find_remote(open_path(name), key)
    else:
        paths = [Path(found) for found in sorted(glob.glob(name, recursive=True))]
        if not paths and Path(name).exists():
            paths = [Path(name)]
    if not paths:
        beside = folder / name
        if "://" not in name and beside.is_file():
            raise ConfigError(
                f"{key} {name!r}: no such file here; paths of rows count from where the command "
                f"runs, and {beside} is there: write that"
            )
        raise ConfigError(
            f"{key} {name!r}: no such file; give a JSONL (or .jsonl.gz, .jsonl.zst) or Parquet "
            "file, a glob, or env:NAME"
        )
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{key} {name!r}: is a folder; write {name}/*.jsonl")
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise ConfigError(f"{key} {path}: cannot be read: {reason}") from None
        if path.suffix == PARQUET_SUFFIX:
            check_parquet(path, key, raw=raw)
        else:
            _check_jsonl(path, key)
    return paths


def _check_jsonl(path: Path, key: str) -> None:
    """Refuse a file that holds something else altogether, before its lines all become failures.

    Raises:
        ConfigError: none of its first lines is an object.
    """
    lines = (line.removeprefix(_BYTE_ORDER_MARK).strip() for line in text_lines(path, key))
    first = list(itertools.islice(filter(None, lines), _LOOKED_AT))
    if first and not any(line.startswith((b"{", b"[")) for line in first):
        shown = first[0][:60].decode("utf-8", "replace")
        raise ConfigError(
            f"{key} {path}: is no file of task rows: it begins with {shown!r}; write one JSON "
            "object per line, or give a Parquet file (.parquet)"
        )


def _find_remote(named: Path, key: str) -> list[Path]:
    """The objects of a URL, with a glob in its path or without."""
    reachable(named, key)
    name = str(named)
    if not any(mark in name for mark in "*?["):
        return [named] if named.exists() else []
    root = name[: min(name.find(mark) for mark in "*?[" if mark in name)].rpartition("/")[0]
    return sorted(open_path(root).glob(name.removeprefix(f"{root}/")))
