"""The actors NeMo RL calls in place of its own: `NemoGym` for its current code, and
`NemoGymOfReleases` for its releases 0.5 to 0.7.

The two differ in how results are returned and in who starts what:

* `NemoGym` streams; `_spinup`, then `set_tokenizer`, then rollouts; `health_check` raises.
* `NemoGymOfReleases` returns a list, is given the tokenizer with every call, and readies itself
  when 0.5 and 0.6, which know no `_spinup`, first ask for its health; `health_check` is True.

Invariants of a batch: every row is yielded at most once; all rows that succeeded are yielded
before the one exception that tells of those that failed; timing comes with the last row and only
when none failed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from gym_ray.integrations.nemo_rl.failures import FailedRow, failure_of
from gym_ray.integrations.nemo_rl.message_log import Untrainable, result_of
from gym_ray.integrations.nemo_rl.row_flags import THINKING_TAGS, TOOL_CALL_PATTERNS, RowFlags
from gym_ray.integrations.nemo_rl.service import Service, service_of
from gym_ray.integrations.nemo_rl.settings import settings_of
from gym_ray.integrations.nemo_rl.timing import Timing
from gym_ray.rollout import Rollout

_Streamed = tuple[int, dict[str, Any], dict[str, float] | None]


class _Actor:
    """What both have in common.

    Args:
        cfg: NeMo RL's `NemoGymConfig`: `model_name`, `base_urls`, `initial_global_config_dict`
            (its `gym_ray` is ours, see `NemoRlSettings`), `invalid_tool_call_patterns`,
            `thinking_tags`.
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self._cfg = cfg
        self._service: Service | None = None
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
            if self._service is not None:
                return
            settings = settings_of(self._cfg.get("initial_global_config_dict") or {})
            service = service_of(self._cfg)
            await service.start()
            self._tensors = settings.tensors
            self._marks = RowFlags(
                self._cfg.get("invalid_tool_call_patterns") or TOOL_CALL_PATTERNS,
                self._cfg.get("thinking_tags") or THINKING_TAGS,
                frozenset(settings.mask_truncated),
            )
            self._service = service

    async def shutdown(self) -> None:
        """Let go of the service; one that was started here is taken down. Idempotent."""
        service, self._service = self._service, None
        if service is not None:
            await service.close()

    def step(self, message_log_batch: Any, metadata: Any) -> Any:
        """Not used: rollouts run whole."""
        raise NotImplementedError

    def global_post_process_and_metrics(self, batch: Any) -> Any:
        """Not used."""
        raise NotImplementedError

    def _running(self) -> Service:
        if self._service is None:
            raise RuntimeError(
                "_spinup() was not called on this actor, or it has been shut down; Ray restarts a "
                "lost actor through its constructor alone, so it has to be spun up again"
            )
        return self._service

    async def _rolled_out(
        self, examples: Sequence[Mapping[str, Any]], tokenizer: Any, timer_prefix: str
    ) -> AsyncGenerator[_Streamed, None]:
        service = self._running()
        indices = _row_indices(examples)
        timing = Timing(timer_prefix)
        failed: list[FailedRow] = []
        done = 0
        async with contextlib.aclosing(service.run(examples)) as rollouts:
            while True:
                with timing.measured("await_results"):
                    finished = await anext(rollouts, None)
                if finished is None:
                    break
                position, rollout = finished
                with timing.measured("postprocess_results"):
                    result = await self._postprocessed(examples[position], rollout, tokenizer)
                if isinstance(result, FailedRow):
                    failed.append(result)
                    continue
                done += 1
                last = done == len(examples)
                yield indices[position], result, timing.metrics() if last else None
        if failed:
            raise failure_of(sorted(failed, key=lambda row: row.row_index), len(examples))

    async def _postprocessed(
        self, example: Mapping[str, Any], rollout: Rollout, tokenizer: Any
    ) -> dict[str, Any] | FailedRow:
        row_index = example["_rowidx"]
        if rollout.error_kind is not None:
            return FailedRow(row_index, rollout.error_kind, rollout.error or "no reason given")

        def result() -> dict[str, Any]:
            return result_of(example, rollout, tokenizer, self._marks, tensors=self._tensors)

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._postprocessing, result)
        except Untrainable as error:
            return FailedRow(row_index, None, str(error))


class _NemoGym(_Actor):
    """The interface of NeMo RL's current code."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__(cfg)
        self._tokenizer: Any = None

    def set_tokenizer(self, tokenizer: Any) -> None:
        """Install the tokenizer results are decoded with."""
        self._tokenizer = tokenizer

    async def health_check(self) -> None:
        """Raise when rollouts cannot run: never spun up, or the service is not well."""
        await self._running().check()

    async def run_rollouts(
        self,
        nemo_gym_examples: Sequence[Mapping[str, Any]],
        timer_prefix: str,
        deduplicate_multimodal_data: bool = False,
    ) -> AsyncGenerator[_Streamed, None]:
        """Stream `(_rowidx, result, timing)` as rollouts complete; see `result_of`.

        Args:
            nemo_gym_examples: task rows with `_rowidx`, an int of its own each.
            timer_prefix: of the timing's names.
            deduplicate_multimodal_data: results then say that nothing was left out of them.

        Raises:
            ValueError: no rows, or one without its `_rowidx`.
            RuntimeError: not spun up, or no tokenizer.
            GymTransportError, RolloutDataFailure: rows failed; after all others were yielded.
        """
        self._running()
        _row_indices(nemo_gym_examples)
        if self._tokenizer is None:
            raise RuntimeError("set_tokenizer must be called before run_rollouts")
        streamed = self._rolled_out(nemo_gym_examples, self._tokenizer, timer_prefix)
        async with contextlib.aclosing(streamed) as rows:
            async for row_index, result, timing in rows:
                if deduplicate_multimodal_data:
                    result["_initial_multimodal_data_omitted"] = False
                yield row_index, result, timing


class _NemoGymOfReleases(_Actor):
    """The interface of NeMo RL's releases 0.5 to 0.7."""

    async def health_check(self) -> bool:
        """Spin up unless that is done; then True, or raise."""
        await self._spinup()
        await self._running().check()
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
            GymTransportError, RolloutDataFailure: a row failed.
        """
        await self._spinup()
        results: dict[int, dict[str, Any]] = {}
        metrics: dict[str, float] = {}
        streamed = self._rolled_out(nemo_gym_examples, tokenizer, timer_prefix)
        async with contextlib.aclosing(streamed) as rows:
            async for row_index, result, timing in rows:
                results[row_index] = result
                metrics = timing or metrics
        return [results[index] for index in sorted(results)], metrics


def _row_indices(examples: Sequence[Mapping[str, Any]]) -> list[int]:
    """`_rowidx` of every row."""
    if not examples:
        raise ValueError("there are no rows to roll out")
    indices = [row.get("_rowidx") for row in examples]
    for position, index in enumerate(indices):
        if type(index) is not int:
            raise ValueError(
                f"row {position} of the batch has _rowidx={index!r}; it must be an int"
            )
    if len(set(indices)) < len(indices):
        raise ValueError(f"rows of the batch share a _rowidx: {indices}")
    return [index for index in indices if index is not None]


_remote = ray.remote(max_restarts=-1, max_task_retries=-1)

#: Ray actor class for NeMo RL's current code: `NemoGym.options(…).remote(cfg)`.
NemoGym: Any = _remote(_NemoGym)

#: Ray actor class for NeMo RL 0.5, 0.6 and 0.7.
NemoGymOfReleases: Any = _remote(_NemoGymOfReleases)
