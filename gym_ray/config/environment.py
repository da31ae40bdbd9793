"""Sections of an environment: its agent, verifiers, tools and datasets."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gym_ray.config.deployment import AutoscalingConfig, ResourcesConfig
from gym_ray.config.section import Section


class AgentOptions(Section):
    """Limits of the multi-turn agents; `single_turn` has no use for them."""

    max_turns: int = Field(16, ge=1)
    """Turns of the policy at most; then the rollout is truncated (`max_turns`)."""
    max_context_tokens: int | None = Field(None, ge=1)
    """Tokens of a rollout at most, prompt included; null for what the policy's context holds."""
    tool_timeout_seconds: float = Field(30, gt=0)
    """How long a tool may take before the policy is told that it took too long."""
    tool_timeouts: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Other timeouts for single tools: name to seconds."""
    max_tool_output_characters: int = Field(16384, ge=1)
    """Characters of a tool output shown to the policy; a longer one is cut, and its length said."""


class McpServerConfig(Section):
    """An MCP server whose tools are offered: `command` (stdio) or `url` (streamable HTTP).

    Every replica of the environment holds one connection, which its rollouts share.
    """

    command: str | None = None
    """Program to start and talk to over its standard input and output."""
    args: list[str] = Field(default_factory=list)
    """Arguments of the program."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the program, beside the few every program needs."""
    url: str | None = None
    """Address of a running server, e.g. `http://localhost:8000/mcp`."""
    header_variables: dict[str, str] = Field(default_factory=dict)
    """HTTP headers whose values are in environment variables, so that no secret is saved with
    the run: header name to variable name."""
    tools: list[str] | None = None
    """Tools to offer; null for all the server has."""
    startup_timeout_seconds: float = Field(30, gt=0)
    """How long the server may take to answer at first."""

    @pydantic.model_validator(mode="after")
    def _one_transport(self) -> McpServerConfig:
        if (self.command is None) == (self.url is None):
            raise ValueError("set exactly one of command (stdio) and url (streamable HTTP)")
        return self


class ExternalAgentConfig(Section):
    """An agent of your own that `collect` drives, a program or a server: `command` or `url`.

    It reaches the policy through the gateway as any OpenAI client does; the time it has is
    `collect.rollout_timeout_seconds`.
    """

    command: list[str] | None = Field(None, min_length=1)
    """Program and arguments, started once per rollout in the folder of the config file. In its
    environment: `OPENAI_BASE_URL`, `OPENAI_API_KEY`, `GYM_RAY_TASK` (path of a JSON file with
    the task row), `GYM_RAY_SESSION`."""
    url: str | None = None
    """Address to which `{"task", "base_url", "api_key", "session_id"}` is posted per rollout;
    the answer ends the rollout."""
    reward_from_reply: bool = False
    """Take `reward` of the `url`'s JSON answer for the rollout's, instead of verifying."""

    @pydantic.model_validator(mode="after")
    def _one_driver(self) -> ExternalAgentConfig:
        if (self.command is None) == (self.url is None):
            raise ValueError("set exactly one of command and url")
        if self.reward_from_reply and self.url is None:
            raise ValueError("reward_from_reply needs url: a command has no reply")
        return self


class VerifierConfig(Section):
    """One part of a composed verdict."""

    use: str = "environment"
    """`environment` for the environment's own verifier, else `package.module:function` or
    `path/to/file:function`, called with the outcome and `params`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""
    weight: float = 1.0
    """Weight of this verifier's score in the reward."""
    gate: float | None = None
    """The score it has to reach for the other parts to count; null for no gate."""


class GroupVerifierConfig(Section):
    """A verifier that sees all rewarded rollouts of a task and adds to the reward of each."""

    use: str
    """`package.module:function` or `path/to/file:function`, called with the rollouts' outcomes,
    their rewards, and `params`; returns one score for each."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""
    weight: float = 1.0
    """Weight of this verifier's scores in the rewards of the group."""


#: Licenses that task files for training and validation may have.
License = Literal[
    "Apache 2.0",
    "MIT",
    "Creative Commons Attribution 4.0 International",
    "Creative Commons Attribution-ShareAlike 4.0 International",
    "CC BY-SA 4.0",
    "CC BY-NC 3.0",
    "NVIDIA Internal Use Only, Do Not Distribute",
    "NVIDIA Evaluation Dataset License Agreement",
    "TBD",
    "GNU General Public License v3.0",
]


class DatasetConfig(Section):
    """Task rows of an environment, for `gym-ray prepare`; see docs/prepare.md."""

    name: str = Field(min_length=1)
    """What reports call it."""
    type: Literal["train", "validation", "example"]
    """Which prepared file its rows go to."""
    path: str = Field(min_length=1)
    """What `collect.input` takes: a JSONL file (also .gz, .zst), Parquet, a glob, or `env:NAME`."""
    license: License | None = None
    """License of the rows; required for train and validation, one that docs/prepare.md lists."""
    weight: float = Field(1.0, gt=0, le=1000)
    """How often each row is written: 2 twice, 0.5 half of the rows."""
    prompt: str | None = None
    """YAML file with a template that makes task rows of raw rows; see docs/prepare.md."""

    @pydantic.model_validator(mode="after")
    def _licensed(self) -> DatasetConfig:
        if self.license is None and self.type != "example":
            raise ValueError(
                f"data for {self.type} needs a license, one of: "
                + "; ".join(typing.get_args(License))
            )
        return self


class EnvironmentConfig(Section):
    """One environment and the agent that acts in it."""

    entrypoint: str | None = None
    """`package.module:Class` or `path/to/folder:Class`; omitted for a registered name."""
    agent: Literal["auto", "single_turn", "tool_calling", "gymnasium", "external"] = "auto"
    """The loop that lets the policy act; `external` for one of your own (see `external`). `auto` is
    the one that fits the environment: `tool_calling` where it carries out tools, `gymnasium` where
    it is played step by step, else `single_turn`."""
    agent_options: AgentOptions = AgentOptions()
    """Limits of the loop."""
    mcp_servers: dict[str, McpServerConfig] = Field(default_factory=dict)
    """MCP servers whose tools `tool_calling` offers, by a name of your choice."""
    external: ExternalAgentConfig | None = None
    """What `collect` starts with `agent: external`; sessions over HTTP need none."""
    agent_refs: list[str] = Field(default_factory=list)
    """Other `agent_ref` names whose tasks come here."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment class."""
    verifiers: dict[str, VerifierConfig] = Field(default_factory=dict)
    """Parts the verdict is composed of, by name; none: the environment's own verifier decides."""
    group_verifiers: dict[str, GroupVerifierConfig] = Field(default_factory=dict)
    """Verifiers of whole groups, by the name of the component they add once all rollouts of a
    collection are there."""
    datasets: list[DatasetConfig] = Field(default_factory=list)
    """Task rows that `gym-ray prepare` makes training data of."""
    max_in_flight: int | None = Field(None, ge=1)
    """Its rollouts running at once in a collection; null for `collect.max_in_flight`."""
    priority: int = 0
    """Which of the policy's waiting turns go first: lower numbers do. Only where turns wait in a
    queue of ours, that is with vLLM."""
    resources: ResourcesConfig = ResourcesConfig(num_cpus=1)
    autoscaling: AutoscalingConfig = AutoscalingConfig()

    @pydantic.model_validator(mode="after")
    def _datasets_have_names(self) -> EnvironmentConfig:
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) < len(names):
            raise ValueError(f"two datasets have the same name; names: {', '.join(names)}")
        return self

    @pydantic.model_validator(mode="after")
    def _sections_are_used(self) -> EnvironmentConfig:
        if self.external is not None and self.agent not in ("auto", "external"):
            raise ValueError(f"external needs agent: external, not {self.agent}")
        if self.mcp_servers and self.agent not in ("auto", "tool_calling"):
            raise ValueError(f"mcp_servers need agent: tool_calling, not {self.agent}")
        if self.mcp_servers and self.external is not None:
            raise ValueError("mcp_servers and external need different agents; leave one out")
        return self


class VerificationConfig(Section):
    """The process pool that runs plain (not `async`) verifiers."""

    timeout_seconds: float = Field(10, gt=0)
    """Hard deadline of one verification; past it the process is killed."""
    processes: int = Field(2, ge=1)
    """Processes per environment replica."""
