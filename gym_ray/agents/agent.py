"""What an agent is given, and what it gives back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from gym_ray.agents.toolbox import Toolbox
from gym_ray.environment import Environment, Step
from gym_ray.policies.chat import ChatAnswer
from gym_ray.renderers.messages import Message
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.rollout import TruncationReason
from gym_ray.sampling import Sampling
from gym_ray.task import Task
from gym_ray.transcript import TokenlessTranscript, Transcript
from gym_ray.turn import Generation, Tokens
from gym_ray.verdict import Verdict

T = TypeVar("T")

#: Told an item of a rollout that goes on, in the shape of the Responses API.
Watch = Callable[[Mapping[str, Any]], None]


def unwatched(item: Mapping[str, Any]) -> None:
    """Watch nothing."""


class Sampler(Protocol):
    """Samples one turn."""

    async def __call__(self, prompt: Tokens, sampling: Sampling | None = None, /) -> Generation:
        """Sample from prompt tokens int32 [P].

        Args:
            prompt: the whole prompt.
            sampling: other parameters than the rollout's, for this turn.

        Raises:
            RolloutFailure: the turn cannot be sampled.
        """
        ...


class Chatter(Protocol):
    """Takes one turn of a conversation; raises `RolloutFailure`."""

    def __call__(
        self,
        messages: tuple[Message, ...],
        tools: tuple[dict[str, Any], ...],
        *,
        tool_choice: str,
        parallel_tool_calls: bool,
        used_tokens: int,
    ) -> Awaitable[ChatAnswer]:
        """Answer a whole conversation, of which `used_tokens` are known to be in it already."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Episode:
    """What an agent leaves behind.

    Attributes:
        transcript: the exact tokens; `TokenlessTranscript` when the policy returns none.
        items: what the policy and the tools produced, as Responses-API output items.
        text: text of the last assistant message.
        tools: tool definitions that were offered, Responses-API shape.
        truncation_reason: set when the loop was cut short.
        steps: what the environment answered, where it is played step by step.
        verdict: reward given from outside, instead of the verifier's.
        turn_sampling: how each turn of the final branch was sampled; empty when that branch has
            all turns there were, which whoever sampled them knows.
        left_out: items of the turns that `items` does not have, for each side branch of the
            transcript: edited histories, conversations beside the task's.
    """

    transcript: Transcript | TokenlessTranscript
    items: list[dict[str, Any]]
    text: str
    tools: list[dict[str, Any]]
    truncation_reason: TruncationReason | None = None
    steps: tuple[Step, ...] = ()
    verdict: Verdict | None = None
    turn_sampling: tuple[Sampling, ...] = ()
    left_out: tuple[list[dict[str, Any]], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class AgentLimits:
    """Where a loop ends at the latest.

    Attributes:
        max_turns: turns of the policy.
        max_output_tokens: tokens of one turn; a turn cut earlier has filled the context.
        deadline: on the running event loop's clock. It leaves time to verify what there is.
    """

    max_turns: int
    max_output_tokens: int
    deadline: float


@dataclasses.dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent is given: everything of one rollout, as agents keep nothing themselves.

    Attributes:
        task: the problem.
        environment, state: where the policy acts, and what `reset` returned.
        renderer: messages to tokens and back; None when the policy takes messages only.
        sample: samples a turn from tokens.
        sampling: the rollout's sampling parameters.
        chat: takes a turn in messages; None when the policy takes tokens. Most agents want
            `dialogue.dialogue_of`, which is the same for both.
        rollout_id: names the items the agent produces.
        limits: where the loop ends at the latest.
        toolbox: the tools there are.
        gateway_url: address of the HTTP gateway that outside agents reach; None without one.
        watch: told every item as it comes, what the policy says as well as what it is told.
    """

    task: Task
    environment: Environment
    state: Any
    renderer: RolloutRenderer | None
    sample: Sampler
    sampling: Sampling
    chat: Chatter | None
    rollout_id: str
    limits: AgentLimits
    toolbox: Toolbox
    gateway_url: str | None = None
    watch: Watch = unwatched


#: One loop that lets the policy act; raises `RolloutFailure` when a turn cannot be sampled.
Agent = Callable[[AgentContext], Awaitable[Episode]]


#: Below this many characters a prompt is tokenized in less time than a hop to a thread costs.
_INLINE_CHARACTERS = 16_384


async def render_prompt(
    renderer: RolloutRenderer, messages: list[Message], tools: list[dict[str, Any]]
) -> Tokens:
    """Prompt tokens int32 [P] of a first turn; long prompts are tokenized off the event loop."""
    return await tokenize(messages, lambda: renderer.render(messages, tools))


async def bridge_prompt(
    renderer: RolloutRenderer,
    prompt: Tokens,
    generation: Tokens,
    messages: list[Message],
    tools: list[dict[str, Any]],
) -> Tokens:
    """Prompt tokens of a later turn; see `RolloutRenderer.bridge`.

    Raises:
        BridgeImpossible: the family cannot continue what the policy said.
    """
    return await tokenize(messages, lambda: renderer.bridge(prompt, generation, messages, tools))


async def tokenize(messages: Sequence[Message], function: Callable[[], T]) -> T:
    """Result of a function that tokenizes `messages`; for long ones off the event loop."""
    if sum(len(str(message.get("content", ""))) for message in messages) < _INLINE_CHARACTERS:
        return function()
    return await asyncio.to_thread(function)
