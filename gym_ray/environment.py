"""The class an environment author writes.

An environment owns the verifier and the per-rollout state of its tasks. It does not own the
loop that lets the policy act (agents), tokens (renderers), or where it runs (serving).

A complete environment:

    >>> class Capitals(Environment):
    ...     '''Capitals of countries: reward 1 when the answer names the city.'''
    ...     class Fields(TaskFields):
    ...         expected_answer: str
    ...
    ...     def verify(self, outcome: Outcome) -> float:
    ...         return float(outcome.task["expected_answer"] in outcome.text)
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeGuard

import pydantic

from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line
from gym_ray.judging import Judge
from gym_ray.rollout import RolloutSpec
from gym_ray.task import Task, check_row, invalid
from gym_ray.tools import UnknownTool
from gym_ray.verdict import Verdict, VerifierPart


class TaskFields(pydantic.BaseModel):
    """Fields an environment's verifier needs in every task row; other keys pass through."""

    model_config = pydantic.ConfigDict(extra="ignore", strict=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, row: Any) -> Any:
        """Tables have a value in every column, so a null is a field that is not there."""
        if not isinstance(row, Mapping):
            return row
        return {
            key: value
            for key, value in row.items()
            if value is not None or key not in cls.model_fields or _may_be_null(cls, key)
        }


def _may_be_null(fields: type[TaskFields], key: str) -> bool:
    annotation = fields.model_fields[key].annotation
    return annotation is Any or type(None) in typing.get_args(annotation)


def _says_something(answer: object) -> object:
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ValueError(f"is {json.dumps(answer, default=str)[:60]}; write text or a number")
    if isinstance(answer, str) and not answer.strip():
        raise ValueError("is blank; there would be nothing to compare with")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise ValueError(f"is {answer}, which is no number an answer could be")
    return answer


GoldStep = str | Mapping[str, Any]
"""One turn of a policy that does everything right: a text, or a call of a tool as its `name` and
`arguments`, which is carried out where the agent carries out calls."""


def _are_steps(given: object) -> TypeGuard[list[GoldStep]]:
    return isinstance(given, list) and all(isinstance(step, str | Mapping) for step in given)


#: What a row gives as its right answer: text that is not blank, or a finite number.
ExpectedAnswer = Annotated[str | int | float, pydantic.BeforeValidator(_says_something)]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What one action led to, in an environment played step by step (`agent: gymnasium`).

    Attributes:
        observation: what the policy is told next, as a user message.
        reward: of this step alone.
        done: the episode is over.
        info: numbers worth keeping; those of the last step become the rollout's metrics.
    """

    observation: str
    reward: float = 0.0
    done: bool = False
    info: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a verifier judges: a task, what the policy did, and the state it left behind.

    Attributes:
        task: the task, with its row's fields (`outcome.task["expected_answer"]`).
        text: the final answer: text of the last assistant message, "" when there is none.
        items: everything the policy and the tools produced, as Responses-API output items.
        state: what `reset` returned, as the tools left it.
        truncation_reason: why the rollout was cut short (`length`, `max_turns`, `context`,
            `deadline`), or None when it ended by itself.
        steps: the steps of a `gymnasium` episode; empty for other agents.
        left_out: what the policy did in this rollout and `items` does not have, a list of items
            for each history that was left: edited, compacted, or a conversation beside the task's.
    """

    task: Task
    text: str
    items: list[dict[str, Any]]
    state: Any = None
    truncation_reason: str | None = None
    steps: tuple[Step, ...] = ()
    left_out: tuple[list[dict[str, Any]], ...] = ()


class Environment:
    """Base class of every environment.

    One instance serves many rollouts at once and is built again in every process that needs
    it, so it holds configuration only; whatever belongs to one rollout is returned by `reset`.

    The `params` of the environment's config are keyword arguments of the subclass, which gives
    them defaults; an unknown one is a config error.
    """

    #: Row fields to check before any token is spent; None when the verifier needs none.
    Fields: ClassVar[type[TaskFields] | None] = None

    #: The agent of a config that names none; None for `tool_calling` where the class carries out
    #: tools, and `single_turn` where it does not.
    default_agent: ClassVar[str | None] = None

    #: What the verdict is made of, where the config's `verifiers` compose it; else `verify` alone.
    parts: Mapping[str, VerifierPart] = MappingProxyType({})

    #: Names of the judges that `verify` or `review` ask; set in `__init__` where they are params.
    asked_judges: tuple[str, ...] = ()

    #: The judges of the config, by name, when the environment verifies on the event loop.
    judges: Mapping[str, Judge] = MappingProxyType({})

    async def reset(self, task: Task) -> Any:
        """Fresh state for one rollout of `task`; None when the environment has none."""
        return None

    async def call_tool(self, name: str, arguments: dict[str, Any], state: Any) -> Any:
        """Carry out a tool the task row offers and no `@tool` method of this class is.

        Args:
            name: of the tool.
            arguments: already checked against the row's schema.
            state: what `reset` returned.

        Returns:
            What the policy is told: text as it is, anything else as JSON.

        Raises:
            UnknownTool: there is no such tool here either.
        """
        raise UnknownTool(name)

    async def end(self, state: Any) -> None:
        """The agent is done with `state`, however its loop ended; called before `verify`.

        Stops what `reset` or a tool started and `verify` does not need.
        """

    def verify(self, outcome: Outcome) -> Any:
        """Judge one rollout. Returns a number, a bool or a `Verdict`.

        Written as a plain `def`, it runs in a pool of processes under a hard deadline, in the
        main thread of its process, so it may block, burn CPU, use signals, or crash; `outcome`
        must then pickle. Written as `async def`, it runs on the replica's event loop and must
        not block.
        """
        raise NotImplementedError(f"{type(self).__name__} must define verify()")

    async def review(self, outcome: Outcome, verdict: Verdict) -> Verdict:
        """Look at the verdict of `verify` once more, on the event loop, where judges can be asked.

        Args:
            outcome: what was judged.
            verdict: what `verify` said.
        """
        return verdict

    def gold_answer(self, task: Task) -> str | Sequence[GoldStep] | None:
        """What deserves the full reward, where that can be written down.

        A reply; or steps, one for each turn of the policy, where tools are called or a game is
        played: `[{"name": "put", "arguments": {"item": "jars"}}, "Done."]`. `gym-ray env check`
        plays it. By default the row's own `gold_answer`; None where there is none.
        """
        given = task.row.get("gold_answer")
        return given if isinstance(given, str) or _are_steps(given) else None

    def answer(self, task: Task, text: str) -> str | None:
        """The answer a reply settles on, for `majority@k` of `gym-ray metrics`.

        Equal answers must be equal texts. None where a reply settles on none; environments that do
        not define this have no majority.

        Args:
            task: its fields are those of the row.
            text: the final answer, as `Outcome.text`.
        """
        return None

    def warm_up(self) -> None:
        """Do what is slow the first time; called once in every verifier process."""

    def tasks(self) -> Iterator[Mapping[str, Any]]:
        """Generated task rows, for `collect.input: env:NAME`. The same every time.

        Raises:
            ConfigError: this environment does not generate tasks.
        """
        raise ConfigError(
            f"environment {type(self).__name__} does not generate tasks; "
            "set collect.input to a JSONL file of task rows"
        )

    def check_agent(self, agent: str) -> None:
        """Refuse an agent that cannot act here, before anything starts.

        Raises:
            ConfigError: says which agent does.
        """

    def check_task(self, row: Mapping[str, Any]) -> None:
        """Refuse a row whose verifier fields are missing or wrong, before any generation.

        Raises:
            RolloutFailure: `task_invalid`, naming the field.
        """
        if self.Fields is None:
            return
        try:
            self.Fields.model_validate(dict(row))
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"field {'.'.join(map(str, problem['loc']))!r}: {problem['msg']}"
                for problem in error.errors(include_url=False)
            )
            raise invalid(f"does not fit environment {type(self).__name__}: {problems}") from None


def open_task(environment: Environment, spec: RolloutSpec) -> Task:
    """The task of a rollout.

    Raises:
        RolloutFailure: `task_invalid`.
    """
    row = json.loads(spec.task)
    check_row(row)
    environment.check_task(row)
    return Task(
        task_id=spec.task_id,
        row=row,
        task_index=spec.task_index,
        source_file=spec.source_file,
        source_line=spec.source_line,
    )


async def fresh_state(environment: Environment, task: Task) -> Any:
    """What `reset` returns.

    Raises:
        RolloutFailure: `environment_error`, or what `reset` raised.
    """
    try:
        return await environment.reset(task)
    except RolloutFailure:
        raise
    except Exception as error:
        raise RolloutFailure(FailureKind.ENVIRONMENT_ERROR, f"reset: {one_line(error)}") from error


def verifiers_of(environment: Environment) -> dict[str, bool]:
    """What the verdict is made of, by name, and whether it runs on the event loop (a coroutine)
    rather than in a process (a plain function). The name is "" where `verify` alone decides.
    """
    if not environment.parts:
        return {"": inspect.iscoroutinefunction(environment.verify)}
    return {name: part.on_loop for name, part in environment.parts.items()}


async def score_on_loop(environment: Environment, outcome: Outcome, name: str = "") -> Verdict:
    """Run a coroutine verifier; see `verifiers_of`."""
    if name:
        return Verdict.of(await environment.parts[name].score(environment, outcome))
    return Verdict.of(await environment.verify(outcome))


def score_in_process(environment: Environment, name: str, outcome: Outcome) -> Verdict:
    """Run a plain verifier; called in a pool process. The names are those of `verifiers_of`."""
    if name:
        return Verdict.of(environment.parts[name].score(environment, outcome))
    return Verdict.of(environment.verify(outcome))


def judges_asked(environment: Environment) -> set[str]:
    """Names of all judges an environment and the parts of its verdict ask."""
    return {*environment.asked_judges, *(j for p in environment.parts.values() for j in p.judges)}


class GymnasiumEnvironment(Environment):
    """Base class of environments played step by step: games, user simulators (`agent: gymnasium`).

    The name and the shape are those of the Gymnasium library, with text for actions. The loop is
    the agent's.

    >>> class Guess(GymnasiumEnvironment):                              # doctest: +SKIP
    ...     async def reset(self, task: Task) -> Game:
    ...         return Game(secret=task["secret"])
    ...
    ...     async def step(self, state: Game, action: str) -> Step:
    ...         right = action.strip() == state.secret
    ...         return Step("Right!" if right else "No.", reward=float(right), done=right)

    `reset` returns the state of one episode; `step` changes it. Either of `observe` and `step`
    may be a plain `def`, which then runs in a thread.
    """

    default_agent = "gymnasium"

    async def observe(self, task: Task, state: Any) -> str | None:
        """The first observation, shown after the task's own messages; None for none."""
        return None

    async def step(self, state: Any, action: str) -> Step:
        """Play one action.

        Args:
            state: what `reset` returned.
            action: text of the policy's turn, without its reasoning.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step()")

    async def verify(self, outcome: Outcome) -> Any:
        """The episode's reward: the sum of its steps' rewards.

        The metrics are the number of steps, and what the last step's `info` says.
        """
        last = outcome.steps[-1].info if outcome.steps else {}
        return Verdict(
            math.fsum(step.reward for step in outcome.steps),
            metrics={"steps": len(outcome.steps), **last},
            turn_rewards=tuple(step.reward for step in outcome.steps),
        )
