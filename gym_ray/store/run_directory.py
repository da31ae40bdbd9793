"""The run directory: where everything of one run is, and who may write to it.

A collection has all of it; the rollouts of a `serve` have `run.yaml` and `segments/`.

run.yaml            resolved config and identity of the run
manifest.parquet    every rollout of the run
rollouts/           the dataset: large shards, once the run is complete
segments/           small durable files while it is not
summary.json        counts that reconcile, means with coverage
log.txt             what its commands said, and their errors
"""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from gym_ray.config.changes import differing_keys
from gym_ray.config.load import RunConfig
from gym_ray.config.objectives import OBJECTIVES
from gym_ray.errors import ConfigError
from gym_ray.store.dataset_files import MANIFEST_FILE, REMAINING_FILE
from gym_ray.store.log_file import LOG_FILE, log_of
from gym_ray.store.places import (
    UNFINISHED,
    Hold,
    InUse,
    is_remote,
    make_folder,
    open_path,
    reachable,
    remove_unfinished,
    unwritten,
)
from gym_ray.store.segments import SegmentStore
from gym_ray.store.stored_config import CONFIG_FILE, StoredConfig, write_config
from gym_ray.store.stored_run import StoredRun

#: Which command a run directory belongs to.
Kind = Literal["collect", "serve", "reverify"]

#: What a person sets to name a run directory of each kind.
_OUTPUT_KEYS: dict[Kind, str] = {
    "collect": "collect.output",
    "serve": "serve.output",
    "reverify": "--output",
}


class RunDirectory:
    """One output directory, held exclusively from `open` to `close`.

    Attributes:
        path: the directory.
        stored: what is in it, read.
        run: identity of the run: `id`, `created_at`, and facts added by `record`.
        resumed: True when an earlier command began the run.
    """

    def __init__(
        self,
        path: Path,
        hold: Hold,
        run: dict[str, Any],
        *,
        resumed: bool,
        made: Sequence[Path] = (),
    ) -> None:
        self.path = path
        self.stored = StoredRun(path)
        self.run = run
        self.resumed = resumed
        self._hold = hold
        # What `close` takes away again where no run has begun.
        self._made = made

    @classmethod
    def open(cls, config: RunConfig, *, kind: Kind = "collect") -> RunDirectory:
        """Create or reopen the run in `collect.output` (also of a reverification), or in
        `serve.output`.

        Args:
            config: says where, and what is run.
            kind: which command's; a folder never holds rollouts of both.

        Raises:
            ConfigError: not writable, in use by another process, or begun with a config that
                collects something else (the differing keys are shown).
        """
        key = _OUTPUT_KEYS[kind]
        name = config.serve.output if kind == "serve" else config.collect.output
        if name is None:
            raise ConfigError(f"{key} is null; name a folder")
        path = open_path(name)
        if name.startswith("hf://"):
            raise ConfigError(
                f"{key} {name!r}: the Hub keeps finished datasets; collect into a folder or "
                "bucket and `gym-ray hub push` it"
            )
        reachable(path, key)
        made = _absent(path)
        try:
            make_folder(path)
            hold = Hold.take(path)
        except OSError as error:
            raise ConfigError(
                f"{key} {name!r}: cannot be written: {error.strerror or error}; "
                "name a folder you may write to"
            ) from None
        except InUse:
            raise ConfigError(
                f"{key} {name!r}: another gym-ray process is writing there; wait for "
                "it or name another output"
            ) from None
        try:
            return cls._claim(path, hold, config, kind, made)
        except BaseException:
            _take_away(made)
            hold.release()
            raise

    @classmethod
    def _claim(
        cls, path: Path, hold: Hold, config: RunConfig, kind: Kind, made: Sequence[Path]
    ) -> RunDirectory:
        key = _OUTPUT_KEYS[kind]
        found = StoredConfig.read_if_there(path, instead=f"name a new folder as {key}")
        if found is not None:
            saved, run = dict(found.tree), dict(found.facts)
            begun = run.get("kind", "collect")
            if begun != kind:
                raise ConfigError(
                    f"{key} {str(path)!r} holds rollouts of `gym-ray {begun}`; name a new folder"
                )
            now = config.to_tree()
            if kind == "serve":  # What is served does not depend on what would be collected.
                saved, now = {**saved, "collect": {}}, {**now, "collect": {}}
            may_grow = kind == "collect" and config.collect.extend
            differences = differing_keys(saved, now, may_grow=may_grow)
            if differences:
                listing = "\n  ".join(differences)
                would_do = kind == "collect" and not differing_keys(saved, now, may_grow=True)
                extend = "add collect.extend=true to add the rollouts that lack, " * would_do
                raise ConfigError(
                    f"{path} holds a run that was begun with another config:\n  {listing}\n"
                    f"Restore these values to continue it, {extend}or name a new {key}"
                )
            if not found.is_ours:
                # The folder that its code is looked for in is not its author's to say.
                run["base_directory"] = str(Path(config.base_directory).resolve())
            directory = cls(path, hold, run, resumed=True)
        else:
            strangers = sorted(entry.name for entry in path.iterdir() if _is_strange(entry))
            if strangers:
                raise ConfigError(
                    f"{key} {str(path)!r}: the folder is not empty ({strangers[0]}, …) "
                    f"and holds no gym-ray run (no {CONFIG_FILE}); name a new folder"
                )
            # Of a command that was killed before it wrote run.yaml, perhaps with another config.
            (path / MANIFEST_FILE).unlink(missing_ok=True)
            created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            # Entry points given as paths resolve against it, also when run.yaml is the config.
            base_directory = str(Path(config.base_directory).resolve())
            run = {
                "id": uuid.uuid4().hex[:16],
                "kind": kind,
                "created_at": created_at,
                "base_directory": base_directory,
            }
            if config.collect.objective is not None and kind == "collect":
                run["objective"] = {
                    "set": dict(config.from_objective),
                    "filters": dict(OBJECTIVES[config.collect.objective].filters),
                }
            directory = cls(path, hold, run, resumed=False, made=made)
        if kind != "serve":
            # Replicas of a `serve` that was killed may still be writing what they have.
            remove_unfinished(path)
            # A work list that earlier versions left in runs that were cut short.
            (path / REMAINING_FILE).unlink(missing_ok=True)
            make_folder(directory.rollouts)
        return directory

    def save_config(self, config: RunConfig) -> None:
        """Write `run.yaml`: the resolved config, and the run's identity and facts."""
        write_config(self.path, config, self.run)
        self._made = ()

    def record(self, config: RunConfig, **facts: Any) -> None:
        """Add facts about what produced the rollouts (versions, model fingerprint).

        Raises:
            ConfigError: the model is no longer the one the run began with.
        """
        before, now = self.run.get("model_fingerprint"), facts.get("model_fingerprint")
        if before is not None and now is not None and before != now:
            raise ConfigError(
                f"{self.path} was begun with other weights of {config.policy.model} "
                f"(fingerprint {before}, now {now}); name a new folder"
            )
        self.run.update(facts)
        self.save_config(config)

    def close(self) -> None:
        """Let others write to the directory; of a run that never began, leave nothing. A second
        call does nothing.
        """
        _take_away(self._made)
        self._made = ()
        self._hold.release()

    def check(self) -> None:
        """See that the directory is still this process's.

        Raises:
            GymRayError: another has taken it over; nothing may be changed there any more.
        """
        self._hold.check()

    @property
    def id(self) -> str:
        return str(self.run["id"])

    @property
    def manifest(self) -> Path:
        return self.stored.manifest_file

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def log(self) -> Path:
        """What commands say, and what the processes of this machine that run the rollouts write."""
        return log_of(self.path)

    @property
    def segments(self) -> SegmentStore:
        return SegmentStore(self.path.resolve() / "segments")

    @property
    def summary(self) -> Path:
        return self.stored.summary_file


@contextlib.contextmanager
def kept_from_writers(path: Path) -> Iterator[None]:
    """Hold a run directory that is only read, so that no command writes to it meanwhile.

    Raises:
        ConfigError: one is writing.
    """
    try:
        with unwritten(path):
            yield
    except InUse:
        raise ConfigError(
            f"{path}: another gym-ray process is writing there; wait until it has ended"
        ) from None


def _absent(path: Path) -> list[Path]:
    """What opening a run directory makes, of what is not there yet; inner ones first."""
    if is_remote(path):  # Stores have no folders.
        return []
    path = path.absolute()
    made = [path / "rollouts", path / LOG_FILE, path / ".lock", path, *path.parents]
    with contextlib.suppress(OSError):
        return [entry for entry in made if not entry.exists()]
    return []


def _take_away(made: Sequence[Path]) -> None:
    """Remove empty folders and files of ours; who holds the directory calls it."""
    for entry in made:
        with contextlib.suppress(OSError):
            entry.rmdir() if entry.is_dir() else entry.unlink()


def _is_strange(entry: Path) -> bool:
    """Whether an entry of a folder without `run.yaml` is anything but a failed start's."""
    if entry.name == "rollouts":
        return not entry.is_dir() or any(entry.iterdir())
    return entry.name not in {".lock", MANIFEST_FILE, LOG_FILE} and entry.suffix != UNFINISHED
