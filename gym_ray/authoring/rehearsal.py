"""Single rollouts of an environment in this process, through the ordinary runner.

Neither Ray nor a model is needed: whoever rehearses brings the policy.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any

from gym_ray.agents import AGENTS, RemoteTool, Toolbox, Watch, unwatched
from gym_ray.agents.policy_calls import Generate
from gym_ray.authoring.subject import Subject
from gym_ray.policies.chat import Chat
from gym_ray.registry import environment_factory
from gym_ray.renderers import load_renderer
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.task import Task, rollout_id_of
from gym_ray.verifiers.verification import Verification

#: No turn that is given or typed is cut.
UNCUT = Sampling(max_output_tokens=2**20)


class Rehearsal:
    """Plays rollouts of one environment, between its start and its end (`async with`).

    Args:
        subject: the environment.
        processes: that verify, where the verifier is a plain function.
        watch: told every item of a rollout as it comes.
        remote: tools of MCP servers by name.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        processes: int,
        watch: Watch = unwatched,
        remote: Mapping[str, RemoteTool] = MappingProxyType({}),
    ) -> None:
        self._subject = subject
        self._watch = watch
        self._verification = Verification(
            subject.environment,
            environment_factory(subject.name, subject.section, subject.config.base_directory),
            processes=processes,
            timeout_seconds=subject.config.verification.timeout_seconds,
        )
        self._toolbox = Toolbox(subject.environment, subject.section.agent_options, remote)

    async def __aenter__(self) -> Rehearsal:
        await self._verification.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._verification.stop()
        await self._toolbox.stop()

    def offered(self, task: Task) -> list[dict[str, Any]]:
        """The tools that the agent offers for a task."""
        if task.tool_choice == "none":
            return []
        if self._subject.agent == "tool_calling":
            return self._toolbox.offer(task)
        return task.tools if self._subject.agent == "single_turn" else []

    async def play(
        self,
        task: Task,
        generate: Generate,
        *,
        renderer: RolloutRenderer | None = None,
        chat: Chat | None = None,
        sampling: Sampling = UNCUT,
        seconds: float | None = None,
    ) -> Rollout:
        """One rollout.

        Args:
            task: the problem.
            generate: the policy.
            renderer: of the policy's model; ChatML over bytes by default.
            chat: the policy, where it takes messages instead.
            sampling: how it is sampled.
            seconds: its deadline; the config's by default.
        """
        subject = self._subject
        runner = Runner(
            environment=subject.environment,
            agent_name=subject.agent,
            agent=AGENTS[subject.agent],
            renderer=None if chat is not None else renderer or byte_renderer(),
            model="given",
            generate=generate,
            chat=chat,
            verification=self._verification,
            agent_options=subject.section.agent_options,
            toolbox=self._toolbox,
            watch=self._watch,
        )
        spec = RolloutSpec(
            rollout_id=rollout_id_of(task.task_id, subject.name, 0),
            task_id=task.task_id,
            task_index=task.task_index,
            rollout_index=0,
            environment=subject.name,
            source_file=task.source_file,
            source_line=task.source_line,
            task=json.dumps(task.row),
        )
        timeout_seconds = subject.config.collect.rollout_timeout_seconds
        settings = RunSettings(
            run_id="rehearsal",
            sampling=sampling,
            timeout_seconds=timeout_seconds if seconds is None else seconds,
        )
        return await runner.run(spec, settings, attempt=1)


@functools.cache
def byte_renderer() -> RolloutRenderer:
    """The ChatML renderer over bytes, which any text fits."""
    return load_renderer(None)
