"""What every policy call says, whether it carries tokens or messages."""

from __future__ import annotations

import dataclasses

from gym_ray.sampling import Sampling


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One policy call, apart from its prompt.

    Attributes:
        request_id: unique in the run (`rollout_id/attempt/turn`); engines log it and use it to
            abort.
        sampling: the distribution to draw from.
        stop_token_ids: sampling any of these ends the generation (it is kept in the output). With
            messages, those beside the model's own, and only of use to policies that speak tokens.
        seed: engine seed of this very call, or None for the engine's own random stream.
        timeout_seconds: after this the answer is of no use any more, and the call is aborted.
        traceparent: W3C context of the rollout's trace; None when it is not traced.
        priority: of two waiting calls, the one with the lower number goes first.
    """

    request_id: str
    sampling: Sampling
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    timeout_seconds: float = 300.0
    traceparent: str | None = None
    priority: int = 0
