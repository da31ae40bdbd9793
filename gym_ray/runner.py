"""The runner: one whole rollout, from a manifest row to a finished row.

reset -> agent loop -> verify, with a deadline around all of it. Every failure becomes a
`failed` rollout with a kind; nothing but cancellation leaves `run` as an exception. Knows no
Ray: the environment deployment hands it a way to reach the policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import json
import time
from typing import Literal

from gym_ray.agents import Agent, AgentContext, AgentLimits, Episode, Toolbox, Watch, unwatched
from gym_ray.agents.policy_calls import Generate, Policy, PolicyCalls
from gym_ray.config.environment import AgentOptions
from gym_ray.environment import Environment, Outcome, fresh_state, open_task
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.policies.chat import Chat
from gym_ray.policies.weights import StalenessLimit
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout
from gym_ray.sampling import Sampling
from gym_ray.task import Task
from gym_ray.transcript import PrefixBroken
from gym_ray.verdict import Verdict
from gym_ray.verifiers.verification import Verification

#: Most of an attempt's time that is kept for verifying.
_VERIFYING_SHARE = 0.1
#: How long an environment may take to end the state of a rollout that failed.
_ENDING_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class RunSettings:
    """What all rollouts of a run share.

    Attributes:
        run_id: the collection run.
        sampling: the run's sampling parameters; a task may narrow them.
        timeout_seconds: deadline of one attempt.
        gateway_url: address of the HTTP gateway, which `agent: external` needs.
        max_staleness, when_stale: see `CollectConfig`.
    """

    run_id: str
    sampling: Sampling
    timeout_seconds: float
    gateway_url: str | None = None
    max_staleness: int | None = None
    when_stale: Literal["drop", "wait"] = "drop"

    def staleness(self, oldest_version: int | None) -> StalenessLimit | None:
        """The limit of a rollout's next turn; None for no limit.

        Args:
            oldest_version: of its earlier turns; None before the first.
        """
        if self.max_staleness is None:
            return None
        return StalenessLimit(self.max_staleness, oldest_version, self.when_stale)


class Runner:
    """Runs rollouts of one environment. One instance serves many at once.

    Args:
        environment: the environment.
        agent_name, agent: the loop.
        renderer: messages to tokens and back, for the policy's model; None when the policy takes
            messages only.
        model: name the rows carry in their `model` column.
        generate: reaches the policy with tokens.
        chat: reaches it with messages; needed without a renderer.
        verification: judges the environment's rollouts.
        turn_timeout_seconds: deadline of one turn.
        agent_options: limits of the loop.
        toolbox: what `tool_calling` offers; the environment's own methods when None.
        priority: of the policy calls; lower numbers go first.
        watch: told every item of its rollouts as it comes.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        agent_name: str,
        agent: Agent,
        renderer: RolloutRenderer | None,
        model: str,
        generate: Generate,
        verification: Verification,
        turn_timeout_seconds: float = 300.0,
        agent_options: AgentOptions | None = None,
        toolbox: Toolbox | None = None,
        chat: Chat | None = None,
        priority: int = 0,
        watch: Watch = unwatched,
    ) -> None:
        self._environment = environment
        self._agent_name = agent_name
        self._agent = agent
        self._renderer = renderer
        self._model = model
        self._verification = verification
        self._options = agent_options or AgentOptions()
        self._policy = Policy(
            generate,
            chat,
            stop_token_ids=() if renderer is None else renderer.stop_token_ids,
            vocabulary_size=2**31 if renderer is None else renderer.vocabulary_size,
            turn_timeout_seconds=turn_timeout_seconds,
            max_context_tokens=self._options.max_context_tokens,
            priority=priority,
        )
        self._toolbox = toolbox or Toolbox(environment, self._options)
        self._watch = watch

    async def run(
        self,
        spec: RolloutSpec,
        settings: RunSettings,
        *,
        attempt: int,
        traceparent: str | None = None,
    ) -> Rollout:
        """Run one attempt, under its deadline.

        Args:
            spec: which rollout.
            settings: what the run's rollouts share.
            attempt: 1 for the first.
            traceparent: W3C context that the policy's spans of a traced rollout belong under.
        """
        started_at, started = datetime.datetime.now(datetime.UTC), time.perf_counter()
        ends_at = _clock() + settings.timeout_seconds
        try:
            async with asyncio.timeout(settings.timeout_seconds) as deadline:
                rollout, verifying = await self._attempt(
                    spec, settings, attempt, started_at, ends_at, traceparent
                )
            seconds = time.perf_counter() - started
            return dataclasses.replace(rollout, seconds=seconds, verification_seconds=verifying)
        except TimeoutError as error:
            failure = (
                RolloutFailure(
                    FailureKind.ROLLOUT_TIMEOUT,
                    f"not finished after {settings.timeout_seconds:g} s; "
                    "raise collect.rollout_timeout_seconds if that is too short",
                )
                if deadline.expired()
                else RolloutFailure(FailureKind.ENVIRONMENT_ERROR, one_line(error))
            )
        except RolloutFailure as error:
            failure = error
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            # Nobody cancelled this rollout: the environment let a cancellation of its own escape.
            failure = RolloutFailure(FailureKind.ENVIRONMENT_ERROR, one_line(error))
        except PrefixBroken as error:
            failure = RolloutFailure(FailureKind.ENVIRONMENT_ERROR, str(error))
        except Exception as error:
            failure = RolloutFailure(FailureKind.ENVIRONMENT_ERROR, one_line(error))
        return failed_rollout(
            spec,
            failure.kind,
            failure.message,
            run_id=settings.run_id,
            agent=self._agent_name,
            model=self._model,
            attempts=attempt,
            started_at=started_at,
            seconds=time.perf_counter() - started,
        )

    async def _attempt(
        self,
        spec: RolloutSpec,
        settings: RunSettings,
        attempt: int,
        started_at: datetime.datetime,
        ends_at: float,
        traceparent: str | None,
    ) -> tuple[Rollout, float]:
        """The rollout, and the seconds its verification took."""
        task = open_task(self._environment, spec)
        sampling = settings.sampling.for_task(task.create_params)
        limits = AgentLimits(
            max_turns=self._options.max_turns,
            max_output_tokens=sampling.max_output_tokens,
            deadline=ends_at - self._verifying_seconds(settings),
        )
        state = await fresh_state(self._environment, task)
        calls = PolicyCalls(
            self._policy,
            sampling,
            rollout_id=spec.rollout_id,
            attempt=attempt,
            ends_at=ends_at,
            staleness=settings.staleness,
            traceparent=traceparent,
        )
        episode = await self._act(
            AgentContext(
                task=task,
                environment=self._environment,
                state=state,
                renderer=self._renderer,
                sample=calls.sample,
                sampling=sampling,
                chat=None if self._policy.chat is None else calls.converse,
                rollout_id=spec.rollout_id,
                limits=limits,
                toolbox=self._toolbox,
                gateway_url=settings.gateway_url,
                watch=self._watch,
            )
        )
        transcript = episode.transcript
        rollout = Rollout(
            spec=spec,
            run_id=settings.run_id,
            agent=self._agent_name,
            model=self._model,
            status="truncated" if episode.truncation_reason else "completed",
            truncation_reason=episode.truncation_reason,
            token_ids=transcript.token_ids,
            loss_mask=transcript.loss_mask,
            logprobs=transcript.logprobs,
            turns=tuple(transcript.turns),
            side_branches=transcript.side_branches,
            prompt=_json(task.input_items),
            response=_json(episode.items),
            left_out=_json(episode.left_out) if any(episode.left_out) else "[]",
            tools=_json(episode.tools),
            sampling=sampling.to_json(episode.turn_sampling or calls.samplings),
            attempts=attempt,
            started_at=started_at,
        )
        verifying_since = time.perf_counter()
        try:
            verdict = episode.verdict or await self._verify(task, episode, state)
            rollout = judged(rollout, verdict)
        except RolloutFailure as failure:
            rollout = not_judged(rollout, failure)
        seconds = 0.0 if episode.verdict else time.perf_counter() - verifying_since
        return rollout, seconds

    async def _act(self, attempt: AgentContext) -> Episode:
        """The agent's loop, and the end of what it leaves running."""
        try:
            episode = await self._agent(attempt)
        except BaseException:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_ENDING_SECONDS):
                    await self._environment.end(attempt.state)
            raise
        await self._environment.end(attempt.state)
        return episode

    def _verifying_seconds(self, settings: RunSettings) -> float:
        """The part of an attempt's time that is kept for verifying; the agent has the rest."""
        return min(self._verification.timeout_seconds, settings.timeout_seconds * _VERIFYING_SHARE)

    async def _verify(self, task: Task, episode: Episode, state: object) -> Verdict:
        outcome = Outcome(
            task=task,
            text=episode.text,
            items=episode.items,
            state=state,
            truncation_reason=episode.truncation_reason,
            steps=episode.steps,
            left_out=tuple(filter(None, episode.left_out)),
        )
        return await self._verification.verify(outcome)


def judged(rollout: Rollout, verdict: Verdict) -> Rollout:
    """`rollout` with a verdict, in place of any it had.

    Raises:
        RolloutFailure: `verifier_error`, the verdict does not fit the rollout.
    """
    return dataclasses.replace(
        rollout,
        status="truncated" if rollout.truncation_reason else "completed",
        reward=verdict.reward,
        reward_components=verdict.components,
        metrics=verdict.metrics,
        turn_rewards=_turn_rewards(verdict, len(rollout.turns)),
        error_kind=None,
        error=None,
    )


def not_judged(rollout: Rollout, failure: RolloutFailure) -> Rollout:
    """`rollout` as one whose verification failed.

    What the policy did is kept, because it was paid for: `gym-ray reverify` can still judge it.
    """
    return dataclasses.replace(
        rollout,
        status="failed",
        reward=None,
        reward_components={},
        metrics={},
        turn_rewards=(),
        error_kind=failure.kind,
        # A message may quote half of a surrogate pair, which no row can hold.
        error=failure.message.encode("utf-8", "backslashreplace").decode(),
    )


def _turn_rewards(verdict: Verdict, turns: int) -> tuple[float, ...]:
    """One for every turn, or none at all."""
    given = verdict.turn_rewards
    if len(given) > turns:
        raise RolloutFailure(
            FailureKind.VERIFIER_ERROR,
            f"the verdict has {len(given)} turn_rewards and the rollout {turns} turns",
        )
    return given + (0.0,) * (turns - len(given)) if given else ()


def _clock() -> float:
    """The event loop's time, against which deadlines are kept."""
    return asyncio.get_running_loop().time()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
