"""Metrics: what is counted, under which name, and the instruments that carry it to Prometheus.

Owned here: every metric's name, labels and buckets (`METRICS`, which the Grafana dashboard is
checked against), and the instruments of one process. Ray's agent on each node collects them from
the processes there and serves them to Prometheus. Not owned here: when something is observed
(`observer.py` for rollouts, `serving/turn_observer.py` for engines).

Ray puts `ray_` before a name and `_total` after a counter's, keeps a counter of a process that has
ended, and forgets a gauge that is not set again within its reporting interval (10 s).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

#: Seconds; wide, as a stage may be a millisecond of queueing or an hour of tool use.
_SECONDS = (
    0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 180.0, 600.0, 3600.0,
)  # fmt: skip

#: Ray takes no boundary of 0 or below, so the first bucket holds every reward that is not positive.
_REWARDS = (1e-9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999, 1.0, 2.0, 5.0, 10.0)

_VERSIONS = (0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5)


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as Ray is given it.
        kind: what it is to Prometheus.
        description: one line, with the unit.
        labels: names of its labels, beside those Ray adds (`WorkerId`, `NodeAddress`, …).
        boundaries: upper bounds of the buckets of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names Prometheus sees."""
        name = f"ray_{self.name}"
        if self.kind == "counter":
            return (f"{name}_total",)
        if self.kind == "gauge":
            return (name,)
        return (f"{name}_bucket", f"{name}_count", f"{name}_sum")


ROLLOUTS = Metric(
    "gym_ray_rollouts", "counter", "Rollouts finished for good.", ("environment", "status")
)
FAILURES = Metric("gym_ray_failures", "counter", "Failed rollouts.", ("environment", "kind"))
RETRIES = Metric(
    "gym_ray_retries", "counter", "Attempts that failed and were tried again.",
    ("environment", "kind"),
)  # fmt: skip
TOKENS = Metric(
    "gym_ray_tokens", "counter", "Tokens sampled, and tokens of the prompts of all turns.",
    ("environment", "source"),
)  # fmt: skip
STAGE_SECONDS = Metric(
    "gym_ray_stage_seconds", "histogram",
    "Seconds per turn (queue, policy_turn, tool) and per rollout (verification, rollout).",
    ("environment", "stage"), _SECONDS,
)  # fmt: skip
REWARD = Metric(
    "gym_ray_reward", "histogram", "Rewards; the first bucket holds those that are not positive.",
    ("environment",), _REWARDS,
)  # fmt: skip
REWARD_MEAN = Metric(
    "gym_ray_reward_mean", "gauge", "Mean reward of a process' last 1,000 rewarded rollouts.",
    ("environment",),
)  # fmt: skip
STALENESS = Metric(
    "gym_ray_staleness_versions", "histogram",
    "Newest policy version seen when a rollout ended, minus the oldest one that sampled for it.",
    ("environment",), _VERSIONS,
)  # fmt: skip
QUEUED = Metric(
    "gym_ray_rollouts_queued", "gauge", "Rollouts read and not started.", ("environment",)
)
IN_FLIGHT = Metric("gym_ray_rollouts_in_flight", "gauge", "Rollouts started and not finished.")
UNWRITTEN = Metric("gym_ray_rollouts_unwritten", "gauge", "Rollouts finished and not durable yet.")
TURNS_IN_FLIGHT = Metric(
    "gym_ray_policy_turns_in_flight", "gauge", "Turns a policy replica has in work.", ("model",)
)
ENGINE_RUNNING = Metric(
    "gym_ray_engine_running_requests", "gauge", "Requests in the engine's batch.", ("model",)
)
ENGINE_WAITING = Metric(
    "gym_ray_engine_waiting_requests", "gauge", "Requests the engine has not begun.", ("model",)
)
ENGINE_KV_CACHE = Metric(
    "gym_ray_engine_kv_cache_usage", "gauge", "Share of the engine's KV cache in use, 0 to 1.",
    ("model",),
)  # fmt: skip

METRICS = (
    ROLLOUTS, FAILURES, RETRIES, TOKENS, STAGE_SECONDS, REWARD, REWARD_MEAN, STALENESS, QUEUED,
    IN_FLIGHT, UNWRITTEN, TURNS_IN_FLIGHT, ENGINE_RUNNING, ENGINE_WAITING, ENGINE_KV_CACHE,
)  # fmt: skip


def add(metric: Metric, value: float, **labels: str) -> None:
    """Add to a counter; nothing for 0."""
    if value:
        _instrument(metric).inc(value, labels)


def put(metric: Metric, value: float, **labels: str) -> None:
    """Set a gauge."""
    _instrument(metric).set(value, labels)


def observe(metric: Metric, value: float, labels: Mapping[str, str]) -> None:
    """Put one value into a histogram."""
    _instrument(metric).observe(value, labels)


class _Nowhere:
    """An instrument of a process whose metrics nobody collects."""

    def inc(self, value: float, labels: Mapping[str, str]) -> None: ...

    def set(self, value: float, labels: Mapping[str, str]) -> None: ...

    def observe(self, value: float, labels: Mapping[str, str]) -> None: ...


_is_collected = True


def collect_none() -> None:
    """Keep no metrics in this process: no agent of Ray's is there to collect them."""
    global _is_collected
    _is_collected = False


@functools.cache
def _instrument(metric: Metric) -> Any:
    if not _is_collected:
        return _Nowhere()
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(
            metric.name, metric.description, list(metric.boundaries), metric.labels
        )
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, metric.description, metric.labels)
