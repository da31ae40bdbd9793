"""Traces: spans of single rollouts across processes, by OpenTelemetry.

    rollout (stage) -> attempt (environment replica) -> policy turn (policy replica)
                                                     -> verification

A span's context travels as a W3C `traceparent` in our own calls, as Serve's handles carry none.
Whether a rollout is traced is decided once, where it starts; other processes trace what arrives
with a `traceparent`. OpenTelemetry is imported with the first span and not before. Where spans go
is said by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, …).
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import time
import zlib
from collections.abc import Mapping
from typing import Any

from gym_ray.errors import ConfigError
from gym_ray.rollout import Rollout, RolloutSpec

logger = logging.getLogger(__name__)

#: Of the driver's variables, those workers need too. Headers are left out: they hold keys, and Ray
#: shows the environment of a job.
VARIABLES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "OTEL_BSP_SCHEDULE_DELAY",
)

#: How long spans that are not sent yet may take before a process ends.
_FLUSH_MILLISECONDS = 5000

Attributes = Mapping[str, str | int | float]


def require_traces(share: float) -> None:
    """Refuse to trace without the libraries.

    Raises:
        ConfigError: `share` is above 0 and they are not installed.
    """
    if share > 0 and not _installed():
        raise ConfigError(
            "observability.trace_share needs OpenTelemetry's OTLP exporter: "
            "pip install 'gym-ray[otel]', or set it to 0"
        )


def is_traced(rollout_id: str, share: float) -> bool:
    """Whether a rollout belongs to the share that is traced; always the same for the same one."""
    return share > 0 and zlib.crc32(rollout_id.encode()) < share * 2**32


class Span:
    """A stretch of time of one rollout in this process.

    Args:
        name: what happened.
        traceparent: W3C context of the parent; None begins a trace.
        attributes: facts; never what a prompt or an answer says.
        seconds_ago: when it began, before now.

    Attributes:
        traceparent: W3C context for its children.
    """

    def __init__(
        self,
        name: str,
        traceparent: str | None,
        attributes: Attributes,
        *,
        seconds_ago: float = 0.0,
    ) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # An empty context, never the current one: a span of somebody else's is no parent of ours.
        context = Context()
        propagator = TraceContextTextMapPropagator()
        if traceparent is not None:
            context = propagator.extract({"traceparent": traceparent}, context)
        self._span = (
            _provider()
            .get_tracer("gym_ray")
            .start_span(
                name,
                context=context,
                attributes=dict(attributes),
                start_time=time.time_ns() - int(seconds_ago * 1e9),
            )
        )
        found = self._span.get_span_context()
        self.traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-01"

    def end(self, attributes: Attributes, *, error: str | None = None) -> None:
        """It is over.

        Args:
            attributes: further facts.
            error: kind of failure, or None.
        """
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes(dict(attributes))
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()

    def end_rollout(self, rollout: Rollout) -> None:
        """It was all of a rollout or of an attempt, and this is what came of it."""
        facts: dict[str, str | int | float] = {
            "gym_ray.status": rollout.status,
            "gym_ray.attempts": rollout.attempts,
            "gym_ray.turns": len(rollout.turns),
            "gym_ray.sampled_tokens": rollout.sampled_tokens,
        }
        if rollout.reward is not None:
            facts["gym_ray.reward"] = rollout.reward
        kind = rollout.error_kind
        self.end(facts, error=None if kind is None else str(kind))


def root_span(spec: RolloutSpec, run_id: str) -> Span | None:
    """Begin the trace of a rollout; None when this process cannot."""
    if not _can_trace():
        return None
    return Span("rollout", None, {**_identity(spec), "gym_ray.run_id": run_id})


def attempt_span(spec: RolloutSpec, attempt: int, traceparent: str | None) -> Span | None:
    """An attempt at a traced rollout; None when it is not traced, or cannot be here."""
    return child_span("attempt", traceparent, {**_identity(spec), "gym_ray.attempt": attempt})


def child_span(name: str, traceparent: str | None, attributes: Attributes) -> Span | None:
    """A part of a traced rollout; None when it is not traced, or cannot be here."""
    if traceparent is None or not _can_trace():
        return None
    return Span(name, traceparent, attributes)


def _identity(spec: RolloutSpec) -> dict[str, str | int]:
    return {
        "gym_ray.rollout_id": spec.rollout_id,
        "gym_ray.environment": spec.environment,
        "gym_ray.task_index": spec.task_index,
        "gym_ray.rollout_index": spec.rollout_index,
    }


def flush_traces() -> None:
    """Send what is not sent yet; blocks for some seconds at most. Nothing without spans."""
    if _provider.cache_info().currsize:
        _provider().force_flush(_FLUSH_MILLISECONDS)


def _installed() -> bool:
    try:
        return all(
            importlib.util.find_spec(name) is not None
            for name in ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
        )
    except ModuleNotFoundError:
        return False


@functools.cache
def _can_trace() -> bool:
    """Whether this process, perhaps on another machine than the driver, has the libraries."""
    installed = _installed()
    if not installed:
        logger.error("no spans from this node: gym-ray[otel] is not installed here")
    return installed


@functools.cache
def _provider() -> Any:
    """This process' own tracer provider; the global one belongs to the user's code."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    name = os.environ.get("OTEL_SERVICE_NAME", "gym-ray")
    # What is traced was decided by whoever began the trace.
    provider = TracerProvider(
        resource=Resource.create({"service.name": name, "process.pid": os.getpid()}),
        sampler=ALWAYS_ON,
        shutdown_on_exit=True,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
