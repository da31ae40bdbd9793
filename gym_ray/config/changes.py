"""Two starts of one run: which keys may differ, which may only grow, and which must not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gym_ray.config.load import leaves, resolve

#: Keys that say how fast or how long, not what is collected: a resumed run may change them.
TUNING_KEYS = (
    "cluster",
    "policy.resources",
    "policy.autoscaling",
    "policy.startup_timeout_seconds",
    "policy.request_timeout_seconds",
    "verification.processes",
    "collect.output",
    # Says nothing by itself: the values it sets are compared.
    "collect.objective",
    "collect.extend",
    "collect.max_in_flight",
    "collect.max_attempts",
    "collect.max_failed_share",
    "collect.rollout_timeout_seconds",
    "collect.run_timeout_seconds",
    "collect.drain_timeout_seconds",
    "collect.report",
    "collect.report_seconds",
    "serve",
    "observability",
)

#: Keys of which more only adds rollouts: a run that is extended may have more of them. Null is all.
GROWING_KEYS = ("collect.num_repeats", "collect.limit")

#: Keys of an environment that do not change what is collected.
_NOT_COLLECTED = ("resources", "autoscaling", "datasets", "max_in_flight", "priority")

#: Keys of a judge that say how fast it is asked.
_JUDGE_LIMITS = ("max_concurrency", "requests_per_minute", "max_retries")


def differing_keys(
    before: Mapping[str, Any], after: Mapping[str, Any], *, may_grow: bool = False
) -> list[str]:
    """`key: old -> new` for every key that decides what is collected and differs.

    Keys under `TUNING_KEYS` are left out: they may change between two starts of one run. Compared
    are values as of now, so that a secret may change and a reference that stands for another value
    is noticed; told is what was written.

    Args:
        before, after: as `RunConfig.to_tree` returns them.
        may_grow: leave out the `GROWING_KEYS` of which there is more afterwards, too.
    """
    old, new = dict(leaves(resolve(before))), dict(leaves(resolve(after)))
    absent = "(absent)"
    told = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key, absent) == new.get(key, absent) or _is_tuning(key):
            continue
        was, now = (_written_at(tree, key, absent) for tree in (before, after))
        note = " (of another value)" if was == now else ""
        if may_grow and key in GROWING_KEYS:
            if is_more(old.get(key), new.get(key)):
                continue
            note = " (it may only grow: rollouts that are there stay)"
        told.append(f"{key}: {was!r} -> {now!r}{note}")
    return told


def is_more(before: int | None, after: int | None) -> bool:
    """Whether a number of `GROWING_KEYS` became more."""
    return before is not None and (after is None or after > before)


def _written_at(tree: Any, key: str, absent: str) -> Any:
    """What was written at a dotted key, or for the section it is in."""
    written = dict(leaves(tree))
    while key not in written and "." in key:
        key = key.rpartition(".")[0]
    return written.get(key, absent)


def _is_tuning(key: str) -> bool:
    if any(key == tuning or key.startswith(f"{tuning}.") for tuning in TUNING_KEYS):
        return True
    parts = key.split(".")
    if len(parts) < 3:
        return False
    if parts[0] == "judges":
        return f"policy.{parts[2]}" in TUNING_KEYS or parts[2] in _JUDGE_LIMITS
    return parts[0] == "environments" and parts[2] in _NOT_COLLECTED
