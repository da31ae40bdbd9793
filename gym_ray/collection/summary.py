"""The summary: what a run holds, in counts that reconcile.

expected = completed + truncated + failed + pending, and coverage (rows with a reward over
expected) stands beside every mean, because a mean over a quietly smaller sample misleads.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gym_ray.conversation.card import counted
from gym_ray.conversation.html import frame, heading, paragraph, table_html
from gym_ray.conversation.overview import short_number
from gym_ray.conversation.plain_text import plain_line
from gym_ray.errors import ConfigError, FailureKind
from gym_ray.store.index import Index, count_by_status
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.stored_text import stored_object


@dataclasses.dataclass(frozen=True, slots=True)
class Reward:
    """A mean that says what it is a mean of.

    Attributes:
        mean: over the rows that have a reward; None when there are none.
        std: sample standard deviation over them; None for fewer than two.
        coverage: rows with a reward / rows expected.
    """

    mean: float | None
    std: float | None
    coverage: float


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class RunSummary:
    """What `collect` returns and `summary.json` holds.

    Attributes:
        run_id: the run.
        output: its directory.
        expected: rollouts of the manifest.
        completed: rollouts that ended by themselves and were verified.
        truncated: rollouts that met a limit and were verified.
        failed: rollouts without a reward, see `failure_kinds`.
        pending: rollouts that are not done. The four counts sum to `expected`.
        reward: over all environments.
        environments: the same by environment, with its own counts.
        failure_kinds: failed rollouts by kind.
        invalid_rows: the first messages about rows that are not legal tasks.
        retried: rollouts that took more than one attempt.
        retried_reward_difference: mean reward of retried minus that of first-try rollouts; far
            from 0, dropping or retrying failures biases the dataset.
        sampled_tokens: tokens the policy sampled, as far as it says.
        without_token_ids: rollouts without token columns, as the policy returns no token IDs; they
            serve SFT and DPO, not RL.
        shards: Parquet files of the dataset; 0 while the run is not complete.
        seconds: wall time of this command, start-up included.
        collecting_seconds: of it, from the first rollout admitted to the last one durable.
        interrupted: why the command ended early (`signal`, `run_timeout`), or None.
        run: facts about what produced the rollouts: versions, model fingerprint.
        group_failures: groups that a group verifier could not judge, by its name; their rollouts
            have the rewards they had.
    """

    run_id: str
    output: str
    expected: int
    completed: int
    truncated: int
    failed: int
    pending: int
    reward: Reward
    environments: dict[str, dict[str, Any]]
    failure_kinds: dict[str, int]
    invalid_rows: list[str]
    retried: int
    retried_reward_difference: float | None
    sampled_tokens: int
    shards: int
    seconds: float
    collecting_seconds: float
    interrupted: str | None
    run: dict[str, Any]
    without_token_ids: int = 0
    group_failures: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def failed_share(self) -> float:
        """Failed rollouts / expected rollouts."""
        return self.failed / self.expected if self.expected else 0.0

    def __repr__(self) -> str:
        return (
            f"<run {plain_line(self.run_id)}: {self._counts()}; reward {self._reward(self.reward)}>"
        )

    def _repr_html_(self) -> str:
        names = ("environment", "expected", "completed", "truncated", "failed", "reward")
        rows = [
            (name, *(own.get(key, 0) for key in names[1:-1]), self._reward(Reward(**own["reward"])))
            for name, own in self.environments.items()
        ]
        failures = [(kind, number) for kind, number in self.failure_kinds.items()]
        return frame(
            heading(f"run {self.run_id}", self._counts()),
            paragraph(f"reward {self._reward(self.reward)}"),
            table_html(names, rows),
            table_html(("failure", "rollouts"), failures) if failures else "",
            *map(paragraph, self.invalid_rows),
            paragraph(f"{self.sampled_tokens:,} tokens sampled, {self.seconds:.0f} s"),
            paragraph(self.output),
        )

    def _counts(self) -> str:
        kinds = ("completed", "truncated", "failed", "pending")
        found = [f"{getattr(self, kind):,} {kind}" for kind in kinds if getattr(self, kind)]
        return ", ".join([counted(self.expected, "rollout"), *found])

    @staticmethod
    def _reward(reward: Reward) -> str:
        spread = "" if reward.std is None else f" ± {short_number(reward.std)}"
        return f"{short_number(reward.mean)}{spread} (coverage {reward.coverage:.1%})"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)

    @classmethod
    def read(cls, path: Path) -> RunSummary:
        """The summary in a file.

        Raises:
            StoredFileError: it is not there, not readable, or not whole.
            ConfigError: it is of another version.
        """
        saved = stored_object(path)
        try:
            return cls(**{**saved, "reward": Reward(**saved["reward"])})
        except (TypeError, KeyError) as error:
            raise ConfigError(
                f"{path}: is no summary of this version ({error}); re-issue the command that "
                "collected the run, which writes it anew"
            ) from None


def summarize(
    index: Index,
    expected: Mapping[str, int],
    *,
    directory: RunDirectory,
    shards: int,
    seconds: float,
    collecting_seconds: float,
    interrupted: str | None,
    group_failures: Mapping[str, int] = MappingProxyType({}),
) -> RunSummary:
    """The summary of what is stored.

    Args:
        index: of it.
        expected: rollouts of the run, by environment.
        directory: the run's.
        shards, seconds, collecting_seconds, interrupted, group_failures: see `RunSummary`.
    """
    table, total = index.table, sum(expected.values())
    retried, difference = retried_difference(table)
    return RunSummary(
        run_id=directory.id,
        output=str(directory.path),
        expected=total,
        pending=total - len(table),
        **count_by_status(table),
        reward=reward_of(table["reward"], total),
        environments=by_environment(table, expected),
        failure_kinds=failure_kinds(table),
        invalid_rows=first_invalid(table),
        retried=retried,
        retried_reward_difference=difference,
        sampled_tokens=pc.sum(table["sampled_tokens"]).as_py() or 0,
        shards=shards,
        seconds=round(seconds, 3),
        collecting_seconds=round(collecting_seconds, 3),
        interrupted=interrupted,
        run=directory.run,
        group_failures=dict(group_failures),
        without_token_ids=pc.sum(table["without_token_ids"]).as_py() or 0,
    )


def reward_of(rewards: pa.ChunkedArray, expected: int) -> Reward:
    """Mean, deviation and coverage of a reward column with nulls."""
    present = rewards.drop_null()
    count = len(present)
    return Reward(
        mean=pc.mean(present).as_py() if count else None,
        std=pc.stddev(present, ddof=1).as_py() if count > 1 else None,
        coverage=count / expected if expected else 0.0,
    )


def by_environment(table: pa.Table, expected: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Counts and reward of each environment; rows routed nowhere are under `(none)`."""
    result: dict[str, dict[str, Any]] = {}
    for name, count in sorted(expected.items()):
        own = table.filter(pc.equal(table["environment"], name))
        result[name or "(none)"] = {
            "expected": count,
            **count_by_status(own),
            "reward": dataclasses.asdict(reward_of(own["reward"], count)),
        }
    return result


def failure_kinds(table: pa.Table) -> dict[str, int]:
    """Failed rows by kind, most frequent first."""
    counted = pc.value_counts(table["error_kind"].drop_null()).to_pylist()
    pairs = sorted(((e["values"], e["counts"]) for e in counted), key=lambda pair: -pair[1])
    return dict(pairs)


def first_invalid(table: pa.Table, limit: int = 20) -> list[str]:
    """Messages about the first rows that are not legal tasks, each once."""
    found = table.filter(pc.equal(table["error_kind"], str(FailureKind.TASK_INVALID)))["error"]
    return list(dict.fromkeys(found.to_pylist()))[:limit]


def retried_difference(table: pa.Table) -> tuple[int, float | None]:
    """How many rollouts were retried, and how their mean reward differs from the others'."""
    retried = pc.greater(table["attempts"], 1)
    again = table.filter(retried)["reward"].drop_null()
    first = table.filter(pc.invert(retried))["reward"].drop_null()
    count = pc.sum(retried).as_py() or 0
    if not len(again) or not len(first):
        return count, None
    difference = pc.mean(again).as_py() - pc.mean(first).as_py()
    return count, difference if math.isfinite(difference) else None
