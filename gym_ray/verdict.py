"""The verdict: what a verifier says of one rollout, and how those of several become one.

Owned here: the arithmetic. Not owned here: finding the verifiers a config names (registry) and
running them (verifiers).
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

#: Relative tolerance of "reward is the sum of its components" (NeMo RL checks the same).
COMPONENT_SUM_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Reward of one rollout and what it is made of.

    Attributes:
        reward: finite scalar.
        components: already weighted parts; when there are any, they sum to `reward`.
        metrics: unweighted scores worth keeping that are not part of the reward.
        turn_rewards: one reward per turn of the policy, in order, where the process is judged;
            turns beyond the last one given have 0. They are kept beside the reward and need not
            sum to it.

    Raises:
        ValueError: a value is not finite, a name is no text, or components do not sum to the
            reward.
    """

    reward: float
    components: Mapping[str, float] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    turn_rewards: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "reward", float(self.reward))
        for field in ("components", "metrics"):
            values = {str(name): float(value) for name, value in getattr(self, field).items()}
            object.__setattr__(self, field, values)
            for name, value in values.items():
                if not name.isascii() and name != name.encode("utf-8", "replace").decode():
                    raise ValueError(f"verdict {field} has a name that is no text: {name!r}")
                if not math.isfinite(value):
                    raise ValueError(f"verdict {field}[{name!r}] is {value}, not a finite number")
        if not math.isfinite(self.reward):
            raise ValueError(f"verdict reward is {self.reward}, not a finite number")
        object.__setattr__(self, "turn_rewards", tuple(map(float, self.turn_rewards)))
        if not all(map(math.isfinite, self.turn_rewards)):
            raise ValueError(f"verdict turn_rewards {self.turn_rewards} are not finite numbers")
        if self.components:
            total = math.fsum(self.components.values())
            if not math.isclose(total, self.reward, rel_tol=COMPONENT_SUM_TOLERANCE, abs_tol=1e-6):
                raise ValueError(
                    f"verdict components sum to {total:g} but the reward is {self.reward:g}: "
                    "components are the weighted parts of the reward; put unweighted scores "
                    "into metrics"
                )

    @classmethod
    def of(cls, value: Any) -> Verdict:
        """Accept what a verifier may return: a Verdict, or a bare number or bool, numpy's too."""
        if isinstance(value, Verdict):
            return value
        if isinstance(value, numbers.Real | np.bool_):
            return cls(float(value))
        raise TypeError(
            f"verify() must return a number, a bool or a Verdict, got {type(value).__name__}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class VerifierPart:
    """One verifier among several.

    Attributes:
        score: called with the environment and the outcome; returns what `verify` may return.
        on_loop: `score` is a coroutine function and runs on the event loop; else in a process.
        weight: of its score in the reward.
        gate: the score it has to reach for the other parts to count; None for no gate.
        prefix: put before the names of the part's own components and metrics.
        is_own: it is the environment's own verifier, whose verdict `review` sees.
        judges: names of the judges it asks.
    """

    score: Callable[[Any, Any], Any]
    on_loop: bool
    weight: float = 1.0
    gate: float | None = None
    prefix: str = ""
    is_own: bool = False
    judges: tuple[str, ...] = ()


def compose(parts: Mapping[str, VerifierPart], verdicts: Mapping[str, Verdict]) -> Verdict:
    """One verdict from those of all parts.

    reward = sum of weight x score over the parts that count. A part that is a gate always
    counts; the others count when every gate has reached its score. The components are the
    summands (of a part that has components itself, those), the metrics `score/PART`, the parts'
    own metrics, and `gates_open` where there are gates. Rewards per turn are summed likewise.

    Args:
        parts: by name.
        verdicts: of every part, by the same names.
    """
    gates = {name: part.gate for name, part in parts.items() if part.gate is not None}
    is_open = all(verdicts[name].reward >= gate for name, gate in gates.items())
    components: dict[str, float] = {}
    metrics: dict[str, float] = {"gates_open": float(is_open)} if gates else {}
    turns: list[float] = []
    for name, part in parts.items():
        verdict = verdicts[name]
        weight = part.weight if is_open or name in gates else 0.0
        own = {f"{name}/{key}": value for key, value in verdict.components.items()}
        for key, value in (own or {name: verdict.reward}).items():
            components[key] = weight * value
        metrics[f"score/{name}"] = verdict.reward
        metrics.update({part.prefix + key: value for key, value in verdict.metrics.items()})
        turns += [0.0] * (len(verdict.turn_rewards) - len(turns))
        for index, value in enumerate(verdict.turn_rewards):
            turns[index] += weight * value
    return Verdict(sum(components.values()), components, metrics, tuple(turns))
