"""Sections of the policy, how it is sampled, and judges."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gym_ray.config.deployment import PolicyAutoscalingConfig, ResourcesConfig
from gym_ray.config.section import Section


class PolicyConfig(Section):
    """The model being sampled."""

    engine: Literal["vllm", "openai", "scripted"] = "vllm"
    """`vllm`; `openai` for servers of their own; `scripted` for tests (needs no model)."""
    model: str = "bundled:smollm2-135m"
    """Hub id, local path, or `bundled:NAME`."""
    renderer: str = "auto"
    """`auto`, a family of the `renderers` library, `chatml`, or an import path."""
    thinking_retention: Literal["all", "tool_cycle"] = "all"
    """Whether earlier thinking stays in the history; other values than `all` branch."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the engine: vLLM's own, or those that docs/policies.md lists."""
    resources: ResourcesConfig = ResourcesConfig()
    autoscaling: PolicyAutoscalingConfig = PolicyAutoscalingConfig()
    startup_timeout_seconds: float = Field(900, gt=0)
    """How long replicas may take to be up before the command gives up."""
    request_timeout_seconds: float = Field(300, gt=0)
    """How long one turn may take before it counts as `policy_timeout`."""


class SamplingConfig(Section):
    """The distribution tokens are drawn from. A task may set its own; see `Sampling.for_task`."""

    temperature: float = Field(1.0, ge=0, le=2)
    """Softmax temperature, 2 at most; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus mass kept."""
    top_k: int | None = Field(None, ge=1)
    """Number of most likely tokens kept; null keeps all."""
    max_output_tokens: int = Field(512, ge=1)
    """Most tokens one turn may generate; a task can only lower it."""
    seed: int | None = None
    """Set: every turn reproduces. Null: each policy replica draws its own random stream."""


class JudgeConfig(PolicyConfig):
    """A model that verifiers ask; `policy`'s keys, and these. See docs/judges.md.

    Every replica of every environment keeps the limits for itself.
    """

    sampling: SamplingConfig = SamplingConfig(temperature=0)
    """How its replies are sampled; greedy unless said otherwise."""
    max_concurrency: int = Field(64, ge=1)
    """Calls a replica has in work at once; further ones wait."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Calls a replica starts in any 60 seconds; null for no limit."""
    max_retries: int = Field(3, ge=0)
    """Tries after the first one, at failures that another try may cure."""
