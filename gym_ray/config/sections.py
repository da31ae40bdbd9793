"""The sections of a configuration: one small pydantic model each, a docstring under each field.

Owned here: keys, defaults and ranges. Not owned here: the whole config, where it is read from and
what it is compared with (config.py).
"""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gym_ray.config.objectives import ObjectiveName


class Section(pydantic.BaseModel):
    """Base of every section: frozen, and no key it does not know."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AutoscalingConfig(Section):
    """How many replicas a deployment has; handed to Ray Serve."""

    min_replicas: int = Field(1, ge=0)
    """Replicas kept when idle; 0 releases everything, and the next rollout waits for a start."""
    max_replicas: int = Field(1, ge=1)
    """Replicas at most."""
    target_ongoing_requests: float = Field(200.0, gt=0)
    """Turns (policy) or rollouts (environment) in work per replica; more on average adds some."""
    look_back_seconds: float = Field(10, gt=0)
    """The load that counts is the mean over so long."""
    upscale_delay_seconds: float = Field(10, ge=0)
    """How long more replicas must be wanted before they are added."""
    downscale_delay_seconds: float = Field(120, ge=0)
    """How long fewer replicas must be wanted before the others are let go. One that is let go
    takes no new rollouts and finishes those it has."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> AutoscalingConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is more than max_replicas "
                f"({self.max_replicas})"
            )
        return self


class PolicyAutoscalingConfig(AutoscalingConfig):
    """How many replicas a policy has: as many as its turns or its KV cache ask for."""

    target_kv_cache_usage: float = Field(0.8, gt=0, le=1)
    """Share of a replica's KV cache in use, were its waiting turns in it too; more on average adds
    some. Only vLLM tells it."""


class ResourcesConfig(Section):
    """What one replica claims from the cluster."""

    num_gpus: float = Field(0, ge=0)
    """GPUs of one replica; more than one becomes vLLM's tensor-parallel size."""
    num_cpus: float = Field(1, ge=0)
    """Logical CPUs of one replica."""
    bundles: list[dict[str, float]] | None = None
    """Placement-group bundles of one replica that spans nodes, one for each GPU: `{GPU: 1}`."""
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How the bundles are placed."""

    @pydantic.field_validator("bundles")
    @classmethod
    def _one_gpu_each(cls, value: list[dict[str, float]] | None) -> list[dict[str, float]] | None:
        if value is not None and not value:
            raise ValueError("name at least one bundle, or leave bundles out")
        for bundle in value or ():
            if bundle.get("GPU", 0) > 1:
                raise ValueError(
                    f"a bundle has {bundle['GPU']:g} GPUs, and vLLM places one worker in each "
                    f"bundle; write {bundle['GPU']:g} bundles of {{GPU: 1}} instead"
                )
        return value


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
    """Of its replies; greedy unless said otherwise."""
    max_concurrency: int = Field(64, ge=1)
    """Calls a replica has in work at once; further ones wait."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Calls a replica starts in any 60 seconds; null for no limit."""
    max_retries: int = Field(3, ge=0)
    """Tries after the first one, at failures that another try may cure."""


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
    """Of a longer tool output the policy is told the length and shown the beginning."""


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
    """Of its score in the reward."""
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
    """Of its scores in the rewards."""


#: How worker processes log.
LogFormat = Literal["text", "json"]

#: Licences that task files for training and validation may have.
Licence = Literal[
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
    """What `collect.input` takes: a JSONL file, a glob of them, or `env:NAME`."""
    licence: Licence | None = None
    """Of the rows; train and validation need one that docs/prepare.md lists."""
    weight: float = Field(1.0, gt=0, le=1000)
    """How often each row is written: 2 twice, 0.5 half of the rows."""
    prompt: str | None = None
    """YAML file with `user` and perhaps `system`, templates that make the input of raw rows."""

    @pydantic.model_validator(mode="after")
    def _licensed(self) -> DatasetConfig:
        if self.licence is None and self.type != "example":
            raise ValueError(
                f"data for {self.type} needs a licence, one of: "
                + "; ".join(typing.get_args(Licence))
            )
        return self


class EnvironmentConfig(Section):
    """One environment and the agent that acts in it."""

    entrypoint: str | None = None
    """`package.module:Class` or `path/to/folder:Class`; omitted for a registered name."""
    agent: Literal["single_turn", "tool_calling", "gymnasium", "external"] = "single_turn"
    """The loop that lets the policy act; `external` for one of your own (see `external`)."""
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
        if self.external is not None and self.agent != "external":
            raise ValueError(f"external needs agent: external, not {self.agent}")
        if self.mcp_servers and self.agent != "tool_calling":
            raise ValueError(f"mcp_servers need agent: tool_calling, not {self.agent}")
        return self


class VerificationConfig(Section):
    """The process pool that runs plain (not `async`) verifiers."""

    timeout_seconds: float = Field(10, gt=0)
    """Hard deadline of one verification; past it the process is killed."""
    processes: int = Field(2, ge=1)
    """Processes per environment replica."""


class CollectConfig(Section):
    """One collection run."""

    input: str = "tasks.jsonl"
    """A JSONL or Parquet file, a glob of them, or `env:NAME` for generated tasks."""
    output: str = "runs/collection"
    """Directory of the dataset; re-issuing the command continues what is there."""
    objective: ObjectiveName | None = None
    """What the rollouts are for: `rl`, `sft` or `dpo`. Temperature and repeats that are not set get
    the values docs/sampling.md gives for it."""
    num_repeats: int = Field(1, ge=1)
    """Rollouts per task row."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many task rows."""
    extend: bool = False
    """Accept an input that changed since the run began, and add its new rows."""
    max_in_flight: int = Field(512, ge=1)
    """Rollouts running at once."""
    max_attempts: int = Field(3, ge=1)
    """Attempts per rollout at transport and provider failures."""
    max_failed_share: float = Field(0.05, ge=0, le=1)
    """Exit code 3 when a larger share of rollouts failed."""
    rollout_timeout_seconds: float = Field(600, gt=0)
    """Deadline of one attempt."""
    run_timeout_seconds: float | None = Field(None, gt=0)
    """Deadline of the command; what is unfinished then is left for the next one."""
    max_staleness: int | None = Field(None, ge=0)
    """Most versions of the policy's weights that a rollout's oldest tokens may be behind while it
    goes on; null for any age. See docs/weights.md."""
    when_stale: Literal["drop", "wait"] = "drop"
    """What happens to a turn that an update would make too stale: `drop` ends it (`policy_stale`),
    `wait` holds the update until it has ended."""
    drain_timeout_seconds: float = Field(30, gt=0)
    """How long rollouts in flight may finish after Ctrl-C, SIGTERM or the run deadline."""
    report: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(default_factory=list)
    """Experiment trackers that are told the progress and the summary; see docs/observability.md."""
    report_seconds: float = Field(10, ge=1)
    """Seconds between two reports of the progress."""


class ServeConfig(Section):
    """The HTTP gateway of `gym-ray serve`."""

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for every network interface."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    api_key_env: str | None = "GYM_RAY_API_KEY"
    """Environment variable of the bearer key that clients must send; not set, none is asked for."""
    admin_key_env: str | None = "GYM_RAY_ADMIN_KEY"
    """Environment variable of the bearer key of `/weights`; not set, that route is closed."""
    output: str | None = None
    """Directory for the rollouts of sessions and of `/run`; null to keep none."""
    session_timeout_seconds: float = Field(3600, gt=0)
    """After this a session is closed and what there is gets verified."""
    batch_retention_seconds: float = Field(3600, gt=0)
    """How long a batch that no client holds is remembered, results and acknowledgements."""
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """Larger requests are refused; of `/run/bulk`, longer lines."""
    autoscaling: AutoscalingConfig = AutoscalingConfig()
    """Replicas of the gateway; `target_ongoing_requests` counts its requests."""


class ObservabilityConfig(Section):
    """What a running service says of itself, beside its metrics; see docs/observability.md."""

    trace_share: float = Field(0, ge=0, le=1)
    """Share of the rollouts, collected or served, that are traced by OpenTelemetry; 0 for none."""
    log_format: LogFormat = "text"
    """Of the log lines of worker processes; `json` for one object a line. A running application
    keeps the format it was started with."""
