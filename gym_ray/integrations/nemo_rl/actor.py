"""The actors NeMo RL calls in place of its own `NemoGym`: `NemoGym` for 0.8, `NemoGymOfAugust` for
what came before it, and `NemoGymOfReleases` for 0.5 to 0.7.

They differ in how results are returned and in who starts what:

* `NemoGym` streams `(row index, agent_ref, result, timing)`; `_spinup`, then `set_tokenizer`, then
  rollouts; `health_check` raises.
* `NemoGymOfAugust` is the same, and streams `(row index, result, timing)`.
* `NemoGymOfReleases` returns a list, is given the tokenizer with every call, and readies itself
  when 0.5 and 0.6, which know no `_spinup`, first ask for its health; `health_check` is True.

Invariants of a batch: nothing runs of one that cannot be complete; every row is yielded at most
once; all rows that succeeded are yielded before the one exception that tells of those that failed;
timing comes with the last row and only when none failed. A lost actor stays lost: Ray would bring
it back through its constructor alone, and hide from NeMo RL that it has to be spun up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from gym_ray.integrations.nemo_rl.batch import NamedRow, checked
from gym_ray.integrations.nemo_rl.failures import FailedRow, failure_of
from gym_ray.integrations.nemo_rl.hosted import Hosted
from gym_ray.integrations.nemo_rl.message_log import Untrainable, result_of
from gym_ray.integrations.nemo_rl.repeats import Repeats
from gym_ray.integrations.nemo_rl.row_flags import THINKING_TAGS, TOOL_CALL_PATTERNS, RowFlags
from gym_ray.integrations.nemo_rl.service import Service, service_of
from gym_ray.integrations.nemo_rl.settings import settings_of
from gym_ray.integrations.nemo_rl.timing import Timing
from gym_ray.rollout import Rollout


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """A row that succeeded; `timing` stands in a batch's last one."""

    index: int
    result: dict[str, Any]
    timing: dict[str, float] | None

    @property
    def agent_ref(self) -> Any:
        """Where it went, also when the row named its source alone; equal for a group."""
        return self.result["full_result"]["agent_ref"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Running:
    """What `_spinup` made."""

    service: Service
    hosted: Hosted
    repeats: Repeats


class _Actor:
    """What both have in common.

    Args:
        cfg: NeMo RL's `NemoGymConfig`: `model_name`, `base_urls`, `initial_global_config_dict`
            (its `gym_ray` is ours, see `NemoRlSettings`), `invalid_tool_call_patterns`,
            `thinking_tags`.
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self._cfg = cfg
        self._spun_up: _Running | None = None
        self._spinning_up = asyncio.Lock()
        self._tensors = False
        self._marks = RowFlags()
        # One thread: tokenizers are not made for several, and the event loop stays free.
        self._postprocessing = ThreadPoolExecutor(1, thread_name_prefix="postprocess")

    async def _spinup(self) -> None:
        """Read the settings and reach the service. Idempotent.

        Raises:
            ConfigError: the settings are wrong.
            GymTransportError: the service does not answer.
        """
        async with self._spinning_up:
            if self._spun_up is not None:
                return
            settings = settings_of(self._cfg.get("initial_global_config_dict") or {})
            service = service_of(self._cfg)
            hosted = await service.start()
            self._tensors = settings.tensors
            self._marks = RowFlags(
                self._cfg.get("invalid_tool_call_patterns") or TOOL_CALL_PATTERNS,
                self._cfg.get("thinking_tags") or THINKING_TAGS,
                frozenset(settings.mask_truncated),
            )
            self._spun_up = _Running(service, hosted, Repeats(service))

    async def shutdown(self) -> None:
        """Let go of the service; one that was started here is taken down. Idempotent."""
        running, self._spun_up = self._spun_up, None
        if running is not None:
            await running.repeats.close()
            await running.service.close()

    def list_entries(self) -> dict[str, list[str]]:
        """Names that rows may go by here, so that NeMo RL finds the shard of a row."""
        return self._running().hosted.entries()

    def agent_implementations(self) -> dict[str, str]:
        """The agent loop behind each of those names."""
        return self._running().hosted.implementations()

    def step(self, message_log_batch: Any, metadata: Any) -> Any:
        """Not used: rollouts run whole."""
        raise NotImplementedError

    def global_post_process_and_metrics(self, batch: Any) -> Any:
        """Not used."""
        raise NotImplementedError

    def _running(self) -> _Running:
        if self._spun_up is None:
            raise RuntimeError(
                "_spinup() was not called on this actor, or it has been shut down; it has to be "
                "spun up before it is asked for rollouts"
            )
        return self._spun_up

    async def _rolled_out(
        self, rows: Sequence[NamedRow], tokenizer: Any, timer_prefix: str
    ) -> AsyncGenerator[_Row, None]:
        timing = Timing(timer_prefix)
        failed: list[FailedRow] = []
        done = 0
        async with contextlib.aclosing(self._running().repeats.run(rows)) as rollouts:
            while True:
                with timing.measured("await_results"):
                    finished = await anext(rollouts, None)
                if finished is None:
                    break
                position, rollout = finished
                with timing.measured("postprocess_results"):
                    result = await self._postprocessed(rows[position], rollout, tokenizer)
                if isinstance(result, FailedRow):
                    failed.append(result)
                    continue
                done += 1
                last = done == len(rows)
                yield _Row(rows[position].index, result, timing.metrics() if last else None)
        if failed:
            raise failure_of(sorted(failed, key=lambda row: row.row_index), len(rows))

    async def _postprocessed(
        self, row: NamedRow, rollout: Rollout, tokenizer: Any
    ) -> dict[str, Any] | FailedRow:
        if rollout.error_kind is not None:
            reason = rollout.error or "no reason given"
            return FailedRow(row.index, rollout.error_kind, reason, row.group)

        def result() -> dict[str, Any]:
            return result_of(row.task, rollout, tokenizer, self._marks, tensors=self._tensors)

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._postprocessing, result)
        except Untrainable as error:
            return FailedRow(row.index, None, str(error), row.group)


class _NemoGym(_Actor):
    """The interface of NeMo RL 0.8."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__(cfg)
        self._tokenizer: Any = None

    def set_tokenizer(self, tokenizer: Any) -> None:
        """Install the tokenizer results are decoded with."""
        self._tokenizer = tokenizer

    async def health_check(self) -> None:
        """Raise when rollouts cannot run: never spun up, or the service is not well."""
        await self._running().service.check()

    async def run_rollouts(
        self,
        nemo_gym_examples: Sequence[Mapping[str, Any]],
        timer_prefix: str,
        deduplicate_multimodal_data: bool = False,
        per_prompt: bool = False,
        **trace_context: Any,
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Stream `(_rowidx, agent_ref, result, timing)` as rollouts complete; see `result_of`.

        Args:
            nemo_gym_examples: task rows with `_rowidx`, an int of its own each.
            timer_prefix: of the timing's names.
            deduplicate_multimodal_data: results then say that nothing was left out of them.
            per_prompt: whether the rows are those of one group.
            trace_context: of NeMo RL's own traces, which nothing here adds to.

        Raises:
            ValueError: no rows, or one without its `_rowidx`.
            RuntimeError: not spun up, or no tokenizer.
            GymTerminalEpisodeFailure: rows that can never run, before any has started.
            GymTransportError, RolloutDataFailure: rows failed; after all others were yielded.
        """
        rows = checked(nemo_gym_examples, self._running().hosted, is_group=per_prompt)
        if self._tokenizer is None:
            raise RuntimeError("set_tokenizer must be called before run_rollouts")
        streamed = self._rolled_out(rows, self._tokenizer, timer_prefix)
        async with contextlib.aclosing(streamed) as results:
            async for row in results:
                if deduplicate_multimodal_data:
                    row.result["_initial_multimodal_data_omitted"] = False
                yield self._told(row)

    def _told(self, row: _Row) -> tuple[Any, ...]:
        return row.index, row.agent_ref, row.result, row.timing


class _NemoGymOfAugust(_NemoGym):
    """The interface of NeMo RL's code of August 2026, which knows no `agent_ref` in the stream."""

    def _told(self, row: _Row) -> tuple[Any, ...]:
        return row.index, row.result, row.timing


class _NemoGymOfReleases(_Actor):
    """The interface of NeMo RL's releases 0.5 to 0.7."""

    async def health_check(self) -> bool:
        """Spin up unless that is done; then True, or raise."""
        await self._spinup()
        await self._running().service.check()
        return True

    async def run_rollouts(
        self,
        nemo_gym_examples: Sequence[Mapping[str, Any]],
        tokenizer: Any,
        timer_prefix: str,
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """All results in the order of `_rowidx`, and the timing.

        Args:
            nemo_gym_examples: task rows with `_rowidx`, an int of its own each.
            tokenizer: results are decoded with.
            timer_prefix: of the timing's names.

        Raises:
            ValueError: no rows, or one without its `_rowidx`.
            GymTerminalEpisodeFailure: rows that can never run, before any has started.
            GymTransportError, RolloutDataFailure: a row failed.
        """
        await self._spinup()
        rows = checked(nemo_gym_examples, self._running().hosted)
        results: dict[int, dict[str, Any]] = {}
        metrics: dict[str, float] = {}
        streamed = self._rolled_out(rows, tokenizer, timer_prefix)
        async with contextlib.aclosing(streamed) as finished:
            async for row in finished:
                results[row.index] = row.result
                metrics = row.timing or metrics
        return [results[index] for index in sorted(results)], metrics


_remote = ray.remote(max_restarts=0, max_task_retries=0)

#: Ray actor class for NeMo RL 0.8: `NemoGym.options(…).remote(cfg)`.
NemoGym: Any = _remote(_NemoGym)

#: Ray actor class for NeMo RL's code of August 2026.
NemoGymOfAugust: Any = _remote(_NemoGymOfAugust)

#: Ray actor class for NeMo RL 0.5, 0.6 and 0.7.
NemoGymOfReleases: Any = _remote(_NemoGymOfReleases)
