"""Sections of the commands `collect` and `serve`, and of what they report of themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gym_ray.config.deployment import AutoscalingConfig
from gym_ray.config.objectives import ObjectiveName
from gym_ray.config.section import Section

#: How worker processes log.
LogFormat = Literal["text", "json"]


class CollectConfig(Section):
    """One collection run."""

    input: str = "tasks.jsonl"
    """A JSONL file (also .gz, .zst) or Parquet, a glob, or `env:NAME` for generated tasks."""
    output: str = "runs/collection"
    """Directory of the dataset; re-issuing the command continues what is there."""
    objective: ObjectiveName | None = None
    """What the rollouts are for: `rl`, `sft` or `dpo`. Temperature and repeats that are not set get
    the values docs/sampling.md gives for it."""
    num_repeats: int = Field(1, ge=1)
    """Rollouts per task row."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many task rows."""
    extend: bool = False
    """Let a run that is continued grow: new rows of an input that changed, and what larger
    `num_repeats` or `limit` ask for more. Rollouts that are there stay as they are."""
    max_in_flight: int = Field(512, ge=1)
    """Rollouts running at once."""
    max_attempts: int = Field(3, ge=1)
    """Attempts per rollout at transport and provider failures."""
    max_failed_share: float = Field(0.05, ge=0, le=1)
    """Exit code 3 when a larger share of rollouts failed."""
    rollout_timeout_seconds: float = Field(600, gt=0)
    """Deadline of one attempt."""
    run_timeout_seconds: float | None = Field(None, gt=0)
    """Deadline of the command; what is unfinished then is left for the next one."""
    max_staleness: int | None = Field(None, ge=0)
    """Most versions of the policy's weights that a rollout's oldest tokens may be behind while it
    goes on; null for any age. See docs/weights.md."""
    when_stale: Literal["drop", "wait"] = "drop"
    """What happens to a turn that an update would make too stale: `drop` ends it (`policy_stale`),
    `wait` holds the update until it has ended."""
    drain_timeout_seconds: float = Field(30, gt=0)
    """How long rollouts in flight may finish after Ctrl-C, SIGTERM or the run deadline."""
    report: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(default_factory=list)
    """Experiment trackers that receive the progress and the summary; see docs/observability.md."""
    report_seconds: float = Field(10, ge=1)
    """Seconds between two reports of the progress."""


class ServeConfig(Section):
    """The HTTP gateway of `gym-ray serve`."""

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for every network interface."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    api_key_env: str | None = "GYM_RAY_API_KEY"
    """Environment variable of the bearer key that clients must send; not set, none is asked for."""
    admin_key_env: str | None = "GYM_RAY_ADMIN_KEY"
    """Environment variable of the bearer key of `/weights`; not set, that route is closed."""
    output: str | None = None
    """Directory for the rollouts of sessions and of `/run`; null to keep none."""
    session_timeout_seconds: float = Field(3600, gt=0)
    """After this a session is closed and what there is gets verified."""
    batch_retention_seconds: float = Field(3600, gt=0)
    """How long a batch that no client holds is remembered, results and acknowledgements."""
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """Larger requests are refused."""
    autoscaling: AutoscalingConfig = AutoscalingConfig()
    """Replicas of the gateway; `target_ongoing_requests` counts its requests."""


class ObservabilityConfig(Section):
    """What a running service says of itself, beside its metrics; see docs/observability.md."""

    trace_share: float = Field(0, ge=0, le=1)
    """Share of the rollouts, collected or served, that are traced by OpenTelemetry; 0 for none."""
    log_format: LogFormat = "text"
    """Format of the log lines of worker processes; `json` for one object a line. A running
    application keeps the format it was started with."""
