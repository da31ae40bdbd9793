"""What the gateway's routes need from whoever serves them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias

from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest, PolicyInfo
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation


class PolicyBackend(Protocol):
    """A policy as the OpenAI routes see it: the deployment's, or that of one session."""

    @property
    def info(self) -> PolicyInfo:
        """What the policy says of itself."""
        ...

    @property
    def renderer(self) -> RolloutRenderer | None:
        """Renderer of the policy's model; None for a policy that takes no token IDs."""
        ...

    @property
    def sampling(self) -> Sampling:
        """Defaults for what a request leaves open."""
        ...

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """One turn of a conversation; raises `RolloutFailure`. Cancelling it aborts it."""
        ...

    def choices(self, requests: Sequence[ChatRequest]) -> Sequence[Coroutine[Any, Any, ChatAnswer]]:
        """One turn for each request. They differ in their calls alone, so that what is made of
        the messages need only be made once.
        """
        ...

    def generate(self, request: GenerationRequest, /) -> Awaitable[Generation]:
        """One continuation of a token prompt; raises `RolloutFailure`. Cancelling it aborts it."""
        ...


#: A FastAPI dependency that finds the policy of a request; it may take path parameters, headers
#: and the request itself, and raise `ApiError`.
GetPolicy: TypeAlias = Callable[..., Awaitable[PolicyBackend]]
