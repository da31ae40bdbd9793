"""Procedural reasoning tasks with exact verifiers, from PyPI `reasoning-gym`.

Owned here: the mixture of task families, the shape of a row, and which part of the reply is the
answer. Not owned here: the problems and their scores, which are the library's.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gym_ray.environment import Environment, Outcome, TaskFields
from gym_ray.errors import ConfigError, one_line
from gym_ray.task import Task, invalid
from gym_ray.verdict import Verdict
from gym_ray.verifiers.answers import last_boxed, last_line, last_tagged

INSTRUCTION = "Write your final answer, and nothing else, between <answer> and </answer>."

#: Families a 135M model solves some of the time: a mixture where learning can start.
EASY_FAMILIES: Mapping[str, float] = {
    "chain_sum": 1,
    "products": 1,
    "letter_counting": 1,
    "spell_backward": 1,
}
EASY_CONFIG: Mapping[str, Mapping[str, Any]] = {
    "chain_sum": {"max_terms": 2, "max_digits": 1},
    "products": {"max_digits": 1},
    "letter_counting": {"min_words": 1, "max_words": 3},
    "spell_backward": {"min_word_len": 3, "max_word_len": 4},
}

#: Families of reasoning-gym 0.1.25 whose tasks cannot be rows of a file (found by trying all 105).
UNREPEATABLE_FAMILIES = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note",
     "word_ladder", "arc_agi", "rearc"}
)  # fmt: skip
UNREPEATABLE_REASON = (
    "their tasks differ between processes in spite of the seed, or their solutions no longer "
    "score once written as JSON"
)


class ReasoningGymEnvironment(Environment):
    """Reward is the library's own score of the answer, from 0 to 1.

    The answer is what stands in the last `<answer>` tag, else in the last `\\boxed{...}`, else on
    the last line.

    Args:
        families: which families to generate: names, or names with their weight in the mixture.
        family_config: arguments of a family's generator, by family.
        size: number of tasks to generate.
        seed: the same seed generates the same tasks.

    Raises:
        ConfigError: the library, an extra of gym-ray, is not installed.
    """

    class Fields(TaskFields):
        class Metadata(TaskFields):
            source_dataset: str
            """The family, which scores the answer."""

        question: str
        answer: str | None = None
        """The library's own solution; None in families that have many."""
        metadata: Metadata

    def __init__(
        self,
        *,
        families: Mapping[str, float] | Sequence[str] = EASY_FAMILIES,
        family_config: Mapping[str, Mapping[str, Any]] = EASY_CONFIG,
        size: int = 100,
        seed: int = 0,
    ) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ConfigError(
                "environment reasoning_gym: pip install 'gym-ray[reasoning-gym]' (one of its "
                "packages is compiled: a C compiler and Python.h)"
            )
        self._families: dict[str, float] = (
            {**families} if isinstance(families, Mapping) else dict.fromkeys(families, 1.0)
        )
        self._family_config = family_config
        self._size = size
        self._seed = seed

    def warm_up(self) -> None:
        _scorer("chain_sum")  # importing the library takes seconds

    def tasks(self) -> Iterator[dict[str, Any]]:
        try:
            mixture = self._mixture()
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(f"environment reasoning_gym: {one_line(error)}") from error
        for index in range(self._size):
            yield _row(mixture[index])

    def verify(self, outcome: Outcome) -> Verdict:
        entry = {"answer": None, **outcome.task.row}
        family = entry["metadata"]["source_dataset"]
        tagged = last_tagged(outcome.text, "answer")
        answer = tagged or last_boxed(outcome.text) or last_line(outcome.text)
        score = _score(family, answer, entry)
        return Verdict(
            score,
            metrics={
                "answer_found": bool(answer),
                "answer_tagged": bool(tagged),
                f"score/{family}": score,
            },
        )

    def gold_answer(self, task: Task) -> str | None:
        answer = task.row.get("answer")
        return None if answer is None else f"<answer>{answer}</answer>"

    def _mixture(self) -> Sequence[dict[str, Any]]:
        import reasoning_gym
        from reasoning_gym.composite import DatasetSpec

        if refused := sorted(UNREPEATABLE_FAMILIES & self._families.keys()):
            raise ValueError(f"{', '.join(refused)} cannot be generated: {UNREPEATABLE_REASON}")
        specs = [
            DatasetSpec(name, weight, dict(self._family_config.get(name, {})))
            for name, weight in self._families.items()
        ]
        mixture: Sequence[dict[str, Any]] = reasoning_gym.create_dataset(
            "composite", seed=self._seed, size=self._size, datasets=specs
        )
        return mixture


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A generated entry as a task row; the library's own keys pass through to its scorer."""
    prompt = f"{entry['question'].rstrip()}\n\n{INSTRUCTION}"
    return {
        "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
        **json.loads(json.dumps(entry)),
    }


def _score(family: str, answer: str | None, entry: Mapping[str, Any]) -> float:
    """The library's score. Some of its scorers raise at an answer of the wrong form: that is 0.

    Raises:
        RolloutFailure: `task_invalid` when the row's own solution cannot be scored either.
    """
    try:
        score_answer = _scorer(family)
    except ValueError:
        raise invalid(f"field 'metadata.source_dataset': no family {family!r}") from None
    try:
        return float(score_answer(answer, entry))
    except Exception:
        try:
            score_answer(entry["answer"], entry)
        except Exception as error:
            raise invalid(f"is no task of family {family!r}: {one_line(error)}") from None
        return 0.0


@functools.cache
def _scorer(family: str) -> Callable[[str | None, Mapping[str, Any]], float]:
    """The library's scorer of one family. It reads the entry, not the generator's config.

    Raises:
        ValueError: no such family.
    """
    import reasoning_gym

    scorer: Callable[[str | None, Mapping[str, Any]], float] = reasoning_gym.get_score_answer_fn(
        family
    )
    return scorer
