"""Blackjack against a dealer, one hand a rollout: a game played step by step.

Owned here: how an action is read, and what a hand is worth to the policy. Not owned here: cards
and the rules of the game (`cards.py`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from gym_ray.environment import GymnasiumEnvironment, Outcome, Step, TaskFields
from gym_ray.environments.blackjack.cards import Hand, dealer_plays, shuffled_deck
from gym_ray.errors import ConfigError
from gym_ray.task import Task
from gym_ray.verdict import Verdict

WON, PUSHED, LOST = 1.0, 0.0, -1.0

#: A turn without a readable action is forgiven once; stalling must not beat losing.
FORGIVEN = 1

_ACTION = re.compile(r"<action>\s*(hit|stand)\s*</action>", re.IGNORECASE)
_HOW = "Answer with <action>hit</action> or <action>stand</action>."
_INSTRUCTION = (
    "You play one hand of blackjack. Say in a few words what you make of it, then write "
    "<action>hit</action> for another card or <action>stand</action> to stop."
)


@dataclasses.dataclass(slots=True)
class Game:
    """State of one rollout.

    Attributes:
        deck: cards not dealt yet, the next one last.
        player, dealer: hands; the dealer's second card is hidden until the player stands.
        unreadable: turns without a readable action.
    """

    deck: list[str]
    player: Hand
    dealer: Hand
    unreadable: int = 0


class BlackjackEnvironment(GymnasiumEnvironment):
    """Reward 1 for a hand won, 0 for a push, -1 for one lost, given up or not played to its end.

    Args:
        seed: another seed deals other cards to the same tasks.
        size: number of tasks to generate for `collect.input: env:blackjack`.
    """

    class Fields(TaskFields):
        seed: int | str | None = None
        """Names the shuffle; rows without one are dealt by their content."""

    def __init__(self, *, seed: int = 0, size: int = 100) -> None:
        self._seed = seed
        self._size = size

    def check_agent(self, agent: str) -> None:
        if agent != "gymnasium":
            raise ConfigError("it is played step by step; set agent: gymnasium")

    def tasks(self) -> Iterator[dict[str, Any]]:
        for number in range(self._size):
            messages = [
                {"role": "system", "content": _INSTRUCTION},
                {"role": "user", "content": "Deal."},
            ]
            yield {"responses_create_params": {"input": messages}, "seed": number}

    async def reset(self, task: Task) -> Game:
        given = task.row.get("seed")
        deck = shuffled_deck(f"{self._seed}/{task.task_id if given is None else given}")
        # Dealt in turns, as at a table: player, dealer, player, dealer.
        first, up, second, hidden = (deck.pop() for _ in range(4))
        return Game(deck, Hand([first, second]), Hand([up, hidden]))

    async def observe(self, task: Task, state: Game) -> str:
        return f"{_hands(state)} {_HOW}"

    async def step(self, state: Game, action: str) -> Step:
        chosen = {tag.lower() for tag in _ACTION.findall(action)}
        if len(chosen) != 1:
            state.unreadable += 1
            if state.unreadable > FORGIVEN:
                return _end(state, LOST, "No action again, so you give the hand up.")
            return Step(f"That has no single action. {_hands(state)} {_HOW}", info=_info(state))
        if chosen == {"stand"}:
            return _settle(state)
        state.player.cards.append(state.deck.pop())
        if state.player.total > 21:
            return _end(state, LOST, f"You draw {state.player.cards[-1]} and bust.")
        drawn = f"You draw {state.player.cards[-1]}."
        return Step(f"{drawn} {_hands(state)} {_HOW}", info=_info(state))

    async def verify(self, outcome: Outcome) -> Verdict:
        verdict: Verdict = await super().verify(outcome)
        if outcome.steps and outcome.steps[-1].done:
            return verdict
        # Cut short by a limit: a hand that was not played to its end is lost.
        return dataclasses.replace(verdict, reward=LOST)


def _settle(state: Game) -> Step:
    """The player stands: the dealer draws, and the hands are compared."""
    dealer_plays(state.dealer, state.deck)
    if state.dealer.total > 21 or state.player.worth > state.dealer.worth:
        return _end(state, WON, "You win.")
    if state.player.worth == state.dealer.worth:
        return _end(state, PUSHED, "It is a push.")
    return _end(state, LOST, "The dealer wins.")


def _end(state: Game, reward: float, outcome: str) -> Step:
    text = f"{outcome} You have {state.player}; the dealer has {state.dealer}."
    info = {**_info(state), "won": reward == WON, "pushed": reward == PUSHED}
    return Step(text, reward=reward, done=True, info=info)


def _hands(state: Game) -> str:
    return f"You have {state.player}. The dealer shows {state.dealer.cards[0]}."


def _info(state: Game) -> dict[str, float]:
    return {
        "player_total": state.player.total,
        "dealer_total": state.dealer.total,
        "unreadable_actions": state.unreadable,
    }
