"""The engine protocol: tokens in, tokens and logprobs out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.weights import Place, StalenessLimit, WeightsUpdate
from gym_ray.turn import Generation, Tokens

#: An engine logs here what it is doing while it starts, for a person who waits for it.
STARTING = logging.getLogger("gym_ray.starting")


@dataclasses.dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One continuation of a token prompt.

    Attributes:
        call: what every policy call says.
        prompt_token_ids: int32 [P].
        staleness: how old the rollout's tokens may be; None for any age. The deployment keeps it,
            engines need not look.
    """

    call: Call
    prompt_token_ids: Tokens
    staleness: StalenessLimit | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine has in work.

    Attributes:
        running: requests in its batch.
        waiting: requests it has not begun.
        kv_cache_usage: share of its KV cache in use, 0 to 1.
        sampled_tokens: tokens it has sampled since it started, of requests in its batch too.
    """

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    sampled_tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyInfo:
    """What an engine says of itself once started; recorded with every run.

    Attributes:
        engine: `vllm`, `openai` or `scripted`.
        engine_version: version of the engine library; of a remote policy, the API it is spoken to
            in (`completions`, `chat`).
        model: name rows carry in their `model` column.
        fingerprint: digest of the weights or script, so two runs can be told apart; of a remote
            policy, of what its servers call the model.
        context_length: most tokens of prompt plus generation; 0 when a remote policy's servers do
            not say.
        seed: the engine's own random seed, drawn fresh at each start.
        weights_version: of the weights it has now; 0 until an update.
    """

    engine: str
    engine_version: str
    model: str
    fingerprint: str
    context_length: int
    seed: int
    weights_version: int = 0


def require_sound(generation: Generation, vocabulary_size: int) -> None:
    """See that a generation is whole, and of tokens there are.

    Args:
        generation: what an engine returned.
        vocabulary_size: token IDs are below it.

    Raises:
        RolloutFailure: `policy_error`.
    """
    if generation.stop_reason == "abort":
        raise RolloutFailure(FailureKind.POLICY_ERROR, "the engine aborted the generation")
    highest = int(generation.token_ids.max(initial=0))
    if highest >= vocabulary_size:
        raise RolloutFailure(
            FailureKind.POLICY_ERROR,
            f"the engine returned token ID {highest}, and the vocabulary has {vocabulary_size}",
        )


class Engine(Protocol):
    """One policy replica's engine. All methods run on the replica's event loop."""

    async def start(self) -> PolicyInfo:
        """Load the model, warm up, and say what is being served."""
        ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample one continuation.

        Cancelling the awaiting task aborts the generation inside the engine.

        Raises:
            RolloutFailure: `policy_rejected` when the request can never be served (the prompt
                leaves no room in the context), `policy_error` when the engine failed.
        """
        ...

    async def check_health(self) -> None:
        """Raise when the engine cannot serve any more; the replica is then replaced."""
        ...

    async def stop(self) -> None:
        """Release everything, child processes included."""
        ...


@runtime_checkable
class ChatEngine(Protocol):
    """An engine that takes messages, whether it returns token IDs or not."""

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """One turn of a conversation. Cancelling the awaiting task aborts it.

        Raises:
            RolloutFailure: as `Engine.generate`.
        """
        ...


@runtime_checkable
class MeasuredEngine(Protocol):
    """An engine that knows its load: one that runs in this very replica."""

    def load(self) -> EngineLoad:
        """As of the engine's last step."""
        ...


@runtime_checkable
class UpdatableEngine(Protocol):
    """An engine whose weights can be replaced while it serves."""

    async def check_weights(self, update: WeightsUpdate, place: Place) -> None:
        """Refuse weights that cannot be loaded; nothing changes.

        Raises:
            ConfigError: what is wrong with them.
        """
        ...

    async def update_weights(
        self, update: WeightsUpdate, place: Place, verify: Callable[[], Awaitable[None]]
    ) -> str:
        """Replace the weights. Tokens sampled from then on carry the update's version, and their
        log-probabilities are of the new weights on the whole prefix.

        Args:
            update: which.
            place: of this engine among those that are updated.
            verify: awaited when the weights are loaded, before anything is sampled with them.

        Any exception, cancelling included, leaves the engine unfit to serve.

        Returns:
            Digest of the weights in memory.
        """
        ...
