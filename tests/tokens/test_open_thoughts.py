"""Rollouts in which a policy stops inside its reasoning: its own behavior, and nobody's failure."""

from typing import Any

import numpy as np
import pytest

from gym_ray.policies.engine import GenerationRequest
from gym_ray.renderers import RolloutRenderer
from gym_ray.rollout import RolloutSpec
from gym_ray.turn import Generation, VersionSpan
from tests.play import ended, player
from tests.tokens.families import FAMILIES
from tests.workshop import Guessing, Step

Renderers = dict[str, RolloutRenderer]


class Patient(Guessing):
    """Hears what is not said, too."""

    def step(self, state: Any, action: str) -> Any:  # type: ignore[override]
        if not action:
            return Step("Say a number.", info={"silent": True})
        return super().step(state, action)


def spec() -> RolloutSpec:
    return RolloutSpec("rollout", "task", 0, 0, "patient", "tasks.jsonl", 1, "{}")


def says(renderer: RolloutRenderer, *turns: str) -> Any:
    """A policy that samples these texts, names of control tokens as such, and a stop token."""
    left = list(turns)

    async def generate(request: GenerationRequest) -> Generation:
        text = left.pop(0)
        opened = "<think>" in renderer.decode(request.prompt_token_ids[-4:])
        text = text.removeprefix("<think>") if opened else text
        ids = renderer.encode(text, special=False).tolist()
        ids.append(renderer.stop_token_ids[0])
        return Generation(
            token_ids=np.asarray(ids, dtype=np.int32),
            logprobs=-np.ones(len(ids), dtype=np.float32),
            stop_reason="stop",
            version_spans=(VersionSpan(0, 0, len(ids)),),
            queued_seconds=0.0,
            generation_seconds=0.0,
        )

    return generate


#: llama-3 knows no thoughts.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama-3"])
def test_a_game_goes_on_after_a_turn_that_only_thought(families: Renderers, family: str) -> None:
    renderer = families[family]
    turns = "<think>\nIs it 3?", "<think>\nhm</think>\n\n4"

    rollout = player(spec)(
        environment=Patient(),
        agent="gymnasium",
        secret=4,
        renderer=renderer,
        generate=says(renderer, *turns),
    )

    assert (rollout.error, ended(rollout)[0]) == (None, "completed")
    assert (rollout.reward, len(rollout.turns)) == (0.75, 2)
    first = rollout.turns[0]
    end = first.prompt_length + first.generation_length
    assert renderer.decode(rollout.token_ids[:end]).endswith(
        "Is it 3?" + renderer.decode(renderer.stop_token_ids[:1])
    )
    assert rollout.loss_mask.sum() == sum(turn.generation_length for turn in rollout.turns)
    assert "Say a number." in rollout.response
