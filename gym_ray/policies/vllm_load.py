"""vLLM's load, as its schedulers tell it after every step.

Owned here: the statistics logger vLLM is given, one for each of its engine cores. vLLM takes
anything with these methods for one, so nothing of vLLM is imported (vllm does that).
"""

from __future__ import annotations

from typing import Any

from gym_ray.policies.engine import EngineLoad


class VllmLoads:
    """The last load of every engine core of one engine."""

    def __init__(self) -> None:
        self._loads: dict[int, EngineLoad] = {}

    def of(self, _config: Any, core: int) -> CoreLoad:
        """vLLM's factory of statistics loggers."""
        return CoreLoad(self._loads, core)

    def total(self) -> EngineLoad:
        """Requests and tokens of all cores, and the mean usage of their caches."""
        loads = self._loads.values()
        return EngineLoad(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            kv_cache_usage=sum(load.kv_cache_usage for load in loads) / max(1, len(loads)),
            sampled_tokens=sum(load.sampled_tokens for load in loads),
        )


class CoreLoad:
    """Keeps what one core said last; the methods are those of vLLM's `StatLoggerBase`."""

    def __init__(self, loads: dict[int, EngineLoad], core: int) -> None:
        self._loads = loads
        self._core = core
        self._sampled = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        if iteration_stats is not None:
            self._sampled += iteration_stats.num_generation_tokens
        if scheduler_stats is not None:
            self._loads[self._core] = EngineLoad(
                running=scheduler_stats.num_running_reqs,
                waiting=scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs,
                kv_cache_usage=scheduler_stats.kv_cache_usage,
                sampled_tokens=self._sampled,
            )

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def log(self) -> None:
        """Nothing to say."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Nothing to say."""
