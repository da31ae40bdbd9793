"""The observer of rollouts: metrics and log lines, made of finished rows in one place.

Whoever sees rollouts end for good tells it (a rollout stage, the gateway's client, a session
host); nothing else in a rollout's way is instrumented. A log line says which rollout, and never
what is in it: a failure's message may quote a prompt, so it stands in the row only.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable

from gym_ray.rollout import Rollout
from gym_ray.telemetry import metrics

logger = logging.getLogger(__name__)

#: Rewards the mean is taken over.
_RECENT_REWARDS = 1000


class RolloutObserver:
    """Counts rollouts of one process. Use it on one event loop."""

    def __init__(self) -> None:
        self._rewards: dict[str, deque[float]] = {}
        self._newest_version = 0

    def finished(self, rollouts: Iterable[Rollout]) -> None:
        """Rollouts ended for good: there is no further attempt."""
        statuses: Counter[tuple[str, str]] = Counter()
        tokens: Counter[tuple[str, str]] = Counter()
        for rollout in rollouts:
            environment = rollout.spec.environment
            statuses[environment, rollout.status] += 1
            tokens[environment, "sampled"] += rollout.sampled_tokens
            tokens[environment, "prompt"] += sum(turn.prompt_length for turn in rollout.turns)
            if rollout.error_kind is not None:
                self._failed(rollout)
            if rollout.reward is not None:
                metrics.observe(metrics.REWARD, rollout.reward, {"environment": environment})
                recent = self._rewards.setdefault(environment, deque(maxlen=_RECENT_REWARDS))
                recent.append(rollout.reward)
            self._time(rollout)
            self._age(rollout)
        for (environment, status), count in statuses.items():
            metrics.add(metrics.ROLLOUTS, count, environment=environment, status=status)
        for (environment, source), count in tokens.items():
            metrics.add(metrics.TOKENS, count, environment=environment, source=source)

    def retried(self, rollout: Rollout) -> None:
        """An attempt failed, and there will be another."""
        kind = str(rollout.error_kind)
        metrics.add(metrics.RETRIES, 1, environment=rollout.spec.environment, kind=kind)

    def report_rewards(self) -> None:
        """Set what has to be set again and again; see `metrics`."""
        for environment, recent in self._rewards.items():
            mean = sum(recent) / len(recent)
            metrics.put(metrics.REWARD_MEAN, mean, environment=environment)

    def _failed(self, rollout: Rollout) -> None:
        kind, spec = str(rollout.error_kind), rollout.spec
        metrics.add(metrics.FAILURES, 1, environment=spec.environment, kind=kind)
        logger.warning(
            "rollout %s of run %s failed: %s",
            spec.rollout_id,
            rollout.run_id,
            kind,
            extra={
                "rollout_id": spec.rollout_id,
                "run_id": rollout.run_id,
                "environment": spec.environment,
                "task_index": spec.task_index,
                "rollout_index": spec.rollout_index,
                "error_kind": kind,
                "attempts": rollout.attempts,
                "seconds": round(rollout.seconds, 3),
            },
        )

    def _time(self, rollout: Rollout) -> None:
        environment = rollout.spec.environment

        def took(stage: str, seconds: float) -> None:
            labels = {"environment": environment, "stage": stage}
            metrics.observe(metrics.STAGE_SECONDS, seconds, labels)

        for turn in rollout.turns:
            took("queue", turn.queued_seconds)
            took("policy_turn", turn.generation_seconds)
            if turn.tool_seconds:
                took("tool", turn.tool_seconds)
        if rollout.verification_seconds:
            took("verification", rollout.verification_seconds)
        took("rollout", rollout.seconds)

    def _age(self, rollout: Rollout) -> None:
        versions = [span.version for turn in rollout.turns for span in turn.version_spans]
        if not versions:
            return
        self._newest_version = max(self._newest_version, *versions)
        staleness = self._newest_version - min(versions)
        metrics.observe(metrics.STALENESS, staleness, {"environment": rollout.spec.environment})
