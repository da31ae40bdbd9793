"""The vLLM engine: the one module that imports vLLM.

Owned here: how vLLM is started, what it is asked, and what its answers mean, namely the token
path (prompt tokens in; sampled tokens and the log-probabilities of the distribution they were
drawn from out), seeds, the life and death of vLLM's processes, and sensible settings where
there is no GPU. Not owned: where replicas run and how many (serving), and messages (renderers).

What a reader may rely on:

* A generation is complete or it is a `RolloutFailure`; log-probabilities are never repaired.
* What was asked for is what was sampled: values vLLM would silently change are refused.
* Two engines never share a random stream: each start draws its own seed.
* When this process ends, in whatever way, vLLM's processes end too.

At temperature 0 a log-probability is the one at temperature 1, since a greedy choice has none
of its own worth recording.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import multiprocessing
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import psutil
import torch
import vllm
from vllm import SamplingParams, TokensPrompt
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.platforms import CpuArchEnum, current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from gym_ray.errors import ConfigError, FailureKind, GymRayError, RolloutFailure, one_line
from gym_ray.policies.bundled import fingerprint, resolve_model
from gym_ray.policies.call import Call
from gym_ray.policies.checkpoints import check_checkpoint
from gym_ray.policies.cpu_cores import available_cores, cpu_executor, use_cpu_threads
from gym_ray.policies.engine import STARTING, EngineLoad, GenerationRequest, PolicyInfo
from gym_ray.policies.process_guard import ProcessGuard, end_processes, with_descendants
from gym_ray.policies.process_output import ProcessOutput
from gym_ray.policies.vllm_arguments import LOGPROBS_MODE, KnownArguments, check_engine_args
from gym_ray.policies.vllm_load import VllmLoads
from gym_ray.policies.vllm_output import generation_of
from gym_ray.policies.vllm_weights import check_transfer, update_weights
from gym_ray.policies.weights import Place, Transfer, WeightsUpdate
from gym_ray.renderers.model_files import require_model
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation

logger = logging.getLogger(__name__)

#: vLLM raises temperatures between 0 and this to this, with only a warning; the row would then
#: name another distribution than the one sampled from.
LOWEST_TEMPERATURE = 0.01

#: KV cache without a GPU, where vLLM would otherwise take nearly all of the machine's memory.
#: Of SmolLM2-135M in float32 it holds 23,000 tokens.
CPU_KV_CACHE_BYTES = 1024**3

#: Until vLLM's processes have ended by themselves; then they are killed.
SHUTDOWN_SECONDS = 10.0


class VllmEngine:
    """One vLLM engine behind the `Engine` protocol.

    Args:
        model: checkpoint directory, hub id, or `bundled:NAME`.
        served_name: name for rows and clients; the model's own when None.
        engine_args: fields of vLLM's `AsyncEngineArgs`; they win over every default set here.
        num_gpus: GPUs of this replica, which becomes the tensor-parallel size unless
            `engine_args` say otherwise. Several GPUs use vLLM's `mp` executor, so one node;
            across nodes set `distributed_executor_backend: ray`.
        cpu_threads: threads for computing where there is no GPU; every core this process may
            use when None.

    Raises:
        ConfigError: see `check_engine_args`.
    """

    def __init__(
        self,
        *,
        model: str,
        engine_args: Mapping[str, Any] | None = None,
        served_name: str | None = None,
        num_gpus: int = 0,
        cpu_threads: int | None = None,
    ) -> None:
        check_engine_args(engine_args or {}, _known_arguments())
        self._model = model
        self._served_name = served_name or model
        self._arguments = dict(engine_args or {})
        self._num_gpus = num_gpus
        self._cpu_threads = cpu_threads
        self._llm: AsyncLLM | None = None
        self._loads = VllmLoads()
        self._processes: list[psutil.Process] = []
        self._orphan_watch: ProcessGuard | None = None
        self._context_length = 0
        self._vocabulary_size = 0

    async def start(self) -> PolicyInfo:
        """Load the model, sample a few tokens, and say what is being served.

        Raises:
            ConfigError: vLLM refuses the model or an engine argument.
            GymRayError: it failed otherwise; with the errors that its processes told.
        """
        model = await asyncio.to_thread(resolve_model, self._model)
        # Where no driver has looked for it, as on a cluster.
        await asyncio.to_thread(require_model, model, revision=self._arguments.get("revision"))
        arguments = self._complete_arguments(model)
        seed: int = arguments["seed"]
        logger.info("starting vLLM %s on %s, engine seed %d", vllm.__version__, model, seed)
        STARTING.info("loading %s into vLLM %s", self._model, vllm.__version__)
        began = time.monotonic()
        self._orphan_watch = ProcessGuard()
        output = ProcessOutput()
        # Built in a thread: loading takes from seconds to many minutes, and the loop has health
        # checks to answer.
        building = asyncio.ensure_future(asyncio.to_thread(self._build, arguments))
        try:
            llm = await asyncio.shield(building)
            self._llm = llm
            self._context_length = llm.model_config.max_model_len
            self._vocabulary_size = llm.model_config.get_vocab_size()
            STARTING.info("warming up")
            await self._warm_up()
        except asyncio.CancelledError:
            # The thread cannot be interrupted; end what it builds as soon as it has.
            building.add_done_callback(self._abandon)
            raise
        except (ValueError, TypeError, OSError) as error:  # pydantic's are ValueErrors
            await self.stop()
            raise ConfigError(f"vLLM refuses to serve {self._model}: {one_line(error)}") from error
        except Exception as error:
            await self.stop()
            # vLLM says of a process that died only that it did.
            raise GymRayError(f"vLLM could not start: {output.cause(error)}") from error
        logger.info("vLLM is ready after %.1f s", time.monotonic() - began)
        return PolicyInfo(
            engine="vllm",
            engine_version=vllm.__version__,
            model=self._served_name,
            fingerprint=await asyncio.to_thread(fingerprint, model),
            context_length=self._context_length,
            seed=seed,
        )

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample one continuation; see `Engine.generate`."""
        llm = self._running()
        prompt = self._checked_prompt(request)
        parameters = self._sampling_parameters(request, prompt_length=len(prompt))
        began = time.monotonic()
        result = None
        try:
            async for output in llm.generate(
                TokensPrompt(prompt_token_ids=prompt),
                parameters,
                request.call.request_id,
                priority=request.call.priority,
            ):
                result = output
        except VLLMClientError as error:
            raise _rejected(_with_cause(error)) from error
        except GracefulHTTPError as error:
            raise RolloutFailure(FailureKind.POLICY_UNAVAILABLE, one_line(error)) from error
        except Exception as error:
            raise _failed(f"vLLM failed: {one_line(error)}") from error
        if result is None or not result.finished:
            raise _failed("vLLM ended the request without a result")
        return generation_of(result, elapsed_seconds=time.monotonic() - began)

    async def check_weights(self, update: WeightsUpdate, place: Place) -> None:
        """Refuse weights that are not this model's; see `UpdatableEngine.check_weights`."""
        if isinstance(update.source, Transfer):
            check_transfer(self._running(), update.source, place)
        if update.checkpoint is not None:
            model = await asyncio.to_thread(resolve_model, self._model)
            await asyncio.to_thread(check_checkpoint, update.checkpoint, like=model)

    async def update_weights(
        self, update: WeightsUpdate, place: Place, verify: Callable[[], Awaitable[None]]
    ) -> str:
        """Serve other weights; see `UpdatableEngine.update_weights`."""
        return await update_weights(self._running(), update, place, verify)

    def load(self) -> EngineLoad:
        """What vLLM's scheduler had in work at its last step; summed over its engines."""
        return self._loads.total()

    async def check_health(self) -> None:
        """Raise when vLLM's processes are gone or have reported a fatal error."""
        await self._running().check_health()

    async def stop(self) -> None:
        """Shut vLLM down and wait until its processes are gone."""
        llm, self._llm = self._llm, None
        if llm is not None and llm.output_handler and not llm.get_num_unfinished_requests():
            # Nobody waits for output, and the end of the core is no error to be logged as one.
            llm.output_handler.cancel()
        await asyncio.to_thread(self._end, llm)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Numbers of vLLM's processes at any depth, for diagnosis."""
        return tuple(process.pid for process in with_descendants(self._processes))

    def _running(self) -> AsyncLLM:
        if self._llm is None:
            raise RolloutFailure(FailureKind.POLICY_UNAVAILABLE, "the engine is not running")
        return self._llm

    def _complete_arguments(self, model: str) -> dict[str, Any]:
        """The engine's arguments: what only we know, defaults, and the user's on top."""
        # vLLM's own default seed is 0: two replicas, or one restarted, would sample the same
        # tokens for the same prompt. numpy's seed, which vLLM sets from it, has 32 bits.
        defaults: dict[str, Any] = {
            "seed": secrets.randbits(32),
            "tensor_parallel_size": max(1, self._num_gpus),
            "enable_log_requests": False,
            # By default, what xgrammar cannot compile goes to another backend, whose masks differ:
            # a row's grammar would no longer say what was sampled from.
            "structured_outputs_config": StructuredOutputsConfig(backend="xgrammar"),
            "worker_extension_cls": "gym_ray.policies.vllm_worker.WorkerExtension",
        }
        if self._num_gpus > 1:
            defaults["distributed_executor_backend"] = "mp"
        if current_platform.is_cpu():
            defaults |= _cpu_defaults(self._arguments)
            use_cpu_threads(self._cpu_threads or available_cores())
        arguments = {**defaults, **self._arguments}
        if current_platform.is_cpu():
            arguments = {**cpu_executor(arguments), **arguments}
            if arguments["enforce_eager"]:
                # Eager mode still compiles small kernels, again for new batch sizes, in the middle
                # of serving: 27 s for the first request. It would also need a C++ compiler.
                os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        return {**arguments, "model": model, "logprobs_mode": LOGPROBS_MODE}

    def _build(self, arguments: dict[str, Any]) -> AsyncLLM:
        before = set(multiprocessing.active_children())
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[self._loads.of])
        started = set(multiprocessing.active_children()) - before
        self._processes = [psutil.Process(child.pid) for child in started if child.pid]
        return llm

    def _abandon(self, building: asyncio.Future[AsyncLLM]) -> None:
        failed = building.cancelled() or building.exception() is not None
        self._llm = None
        self._end(None if failed else building.result())

    def _end(self, llm: AsyncLLM | None) -> None:
        processes, self._processes = with_descendants(self._processes), []
        if llm is not None:
            llm.shutdown(SHUTDOWN_SECONDS)
        end_processes(processes, SHUTDOWN_SECONDS)
        watch, self._orphan_watch = self._orphan_watch, None
        if watch is not None:
            watch.close()

    async def _warm_up(self) -> None:
        """Pay for lazily compiled kernels now rather than in the first rollout."""
        await self.generate(
            GenerationRequest(
                Call("warm-up", Sampling(max_output_tokens=4)), np.zeros(1, dtype=np.int32)
            )
        )

    def _checked_prompt(self, request: GenerationRequest) -> list[int]:
        tokens = request.prompt_token_ids
        if len(tokens) == 0:
            raise _rejected(f"the prompt is empty (0 tokens of {self._context_length})")
        if len(tokens) >= self._context_length:
            raise _rejected(
                f"the prompt's {len(tokens)} tokens leave no room to generate: "
                f"the context holds {self._context_length} tokens"
            )
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= self._vocabulary_size:
            wrong = lowest if lowest < 0 else highest
            raise _rejected(
                f"the prompt holds token id {wrong}: "
                f"the vocabulary has {self._vocabulary_size} tokens"
            )
        prompt: list[int] = tokens.tolist()
        return prompt

    def _sampling_parameters(
        self, request: GenerationRequest, *, prompt_length: int
    ) -> SamplingParams:
        sampling = request.call.sampling
        if 0 < sampling.temperature < LOWEST_TEMPERATURE:
            raise _rejected(
                f"temperature {sampling.temperature:g} is below {LOWEST_TEMPERATURE:g}, "
                "the lowest vLLM samples at; use 0 for greedy decoding"
            )
        room = self._context_length - prompt_length
        try:
            return SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k or 0,
                max_tokens=min(sampling.max_output_tokens, room),
                seed=request.call.seed,
                stop_token_ids=list(request.call.stop_token_ids),
                structured_outputs=_structured_outputs(sampling),
                stop=list(sampling.stop),
                # Text is made for nothing else than to find stop texts in. All of it is searched,
                # names of control tokens too, and what completes one stays: tokens are the truth.
                detokenize=bool(sampling.stop),
                include_stop_str_in_output=True,
                skip_special_tokens=False,
                logprobs=0,
                flat_logprobs=True,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,  # used for this one request only
            )
        except (VLLMClientError, ValueError) as error:
            raise _rejected(one_line(error)) from error


def _known_arguments() -> KnownArguments:
    """Those of the vLLM that is imported: the table's, or of another one only their names."""
    known = KnownArguments.of_installed()
    fields = dataclasses.fields(AsyncEngineArgs)
    return known or KnownArguments(vllm.__version__, {field.name: {} for field in fields})


def _structured_outputs(sampling: Sampling) -> StructuredOutputsParams | None:
    if sampling.grammar is None and sampling.structural_tag is None:
        return None
    return StructuredOutputsParams(grammar=sampling.grammar, structural_tag=sampling.structural_tag)


def _cpu_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    # Compiling takes a minute and a half at every start and gains little here.
    defaults: dict[str, Any] = {"enforce_eager": True}
    if "max_num_batched_tokens" not in given:
        # While a prompt is read in several steps, vLLM takes back what its seed drew in vain. A
        # CPU's generator cannot do so: the first seeded prompt of more than one step ended vLLM.
        defaults["enable_chunked_prefill"] = False
    if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        defaults["kv_cache_memory_bytes"] = CPU_KV_CACHE_BYTES
    if current_platform.get_cpu_architecture() == CpuArchEnum.X86 and not (
        torch.cpu._is_avx512_bf16_supported()
    ):
        # Without instructions for it, bfloat16 is emulated: measured with AVX2 and 64 sequences,
        # 18 tokens/s where float32 makes 110 to 155.
        defaults["dtype"] = "float32"
    return defaults


def _with_cause(error: Exception) -> str:
    """vLLM says that a grammar is invalid; what is wrong with it, only the cause says."""
    if error.__cause__ is None:
        return one_line(error)
    return f"{one_line(error)} ({one_line(error.__cause__, 300)})"


def _rejected(message: str) -> RolloutFailure:
    return RolloutFailure(FailureKind.POLICY_REJECTED, message)


def _failed(message: str) -> RolloutFailure:
    return RolloutFailure(FailureKind.POLICY_ERROR, message)
