"""NeMo Gym's command-line arguments: `+key=value`, as Hydra has them.

Read by OmegaConf, checked by one pydantic model per command. What is no argument of the command is
refused with the nearest one; what NeMo Gym knows and we do otherwise, with what to write instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import Field

from gym_ray.config.load import INTERNAL_FIELDS, RunConfig
from gym_ray.config.section import Section
from gym_ray.errors import ConfigError


class ResponsesCreateParams(Section):
    """What every row's `responses_create_params` gets, whatever the row says."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1)
    max_tool_calls: int | None = Field(None, ge=1)
    parallel_tool_calls: bool | None = None
    tool_choice: str | None = None
    instructions: str | None = None

    def given(self) -> dict[str, Any]:
        """Those that were given."""
        return self.model_dump(exclude_none=True)


class RolloutArguments(Section):
    """Arguments of `ng_collect_rollouts`, which later versions call `gym eval run`."""

    config_paths: list[str] = Field(min_length=1)
    """Config files, of gym-ray and of NeMo Gym; see `configs`."""
    input_jsonl_fpath: str
    """Task rows."""
    output_jsonl_fpath: str
    """Rollouts; the other files are named after it."""
    agent_name: str | None = None
    """Agent that all rows are given to, whatever their `agent_ref` says."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many rows."""
    num_repeats: int | None = Field(1, ge=1)
    """Rollouts of each row; null for 1, as NeMo Gym takes it."""
    num_repeats_add_seed: bool = False
    """Every repeat draws from a seed of its own, so that the run reproduces."""
    num_samples_in_parallel: int | None = Field(None, ge=1)
    """Rollouts in flight at once; null for what the config says."""
    responses_create_params: ResponsesCreateParams = ResponsesCreateParams()
    """Sampling of all rows."""
    resume_from_cache: bool = False
    """Continue what an earlier command left."""
    disable_aggregation: bool = False
    """Do not write aggregate metrics."""
    route_failures_to_sidecar: Literal[True] = True
    """Failures go to a file of their own; gym-ray does this always."""


class PrepareArguments(Section):
    """Arguments of `ng_prepare_data`, which later versions call `gym dataset collate`."""

    config_paths: list[str] = Field(min_length=1)
    """Config files, of gym-ray and of NeMo Gym; see `configs`."""
    output_dirpath: str
    """Folder of the prepared files."""
    mode: Literal["train_preparation", "example_validation"]
    """Which datasets: those for train and validation, or the examples."""
    should_download: Literal[False] = False
    """We read what is there."""
    overwrite_metrics_conflicts: bool = False
    """Replace metrics that differ from the new ones."""


class StartArguments(Section):
    """Arguments of `ng_run`, which later versions call `gym env start`."""

    config_paths: list[str] = Field(min_length=1)
    """Config files, of gym-ray and of NeMo Gym; see `configs`."""


Arguments = TypeVar("Arguments", RolloutArguments, PrepareArguments, StartArguments)

#: Flags of later versions for arguments that are needed.
_FLAGS = {
    "config_paths": "--config",
    "input_jsonl_fpath": "--input",
    "output_jsonl_fpath": "--output",
    "output_dirpath": "--output-dir",
    "mode": "--mode",
}

#: Arguments NeMo Gym has and what to write instead.
_INSTEAD = {
    "agent_map": "agent_refs of the environments say which rows are whose",
    "data_source": "download the files first; paths in the configs name them",
    "dispatch_budget_s": "collect.run_timeout_seconds=SECONDS",
    "fan_out": "one command for each agent, with +agent_name and an output of its own",
    "policy_api_key": "policy.engine_args.api_key_env=NAME, the variable that holds the key",
    "policy_base_url": "policy.engine=openai 'policy.engine_args.base_urls=[URL]'",
    "policy_model_name": "policy.model=NAME",
    "prompt_config": "prepare the rows first: `gym-ray prepare --prompt FILE`",
    "split": "prepare the rows with `gym-ray compat dataset collate`, and give its "
    "DIR/SPLIT.jsonl as the input",
    "skills": "put what the agent should know into `instructions` or the rows",
    "task_data_validation": "--on-invalid fail|drop; every row is always checked",
    "max_resident_rollout_tasks": "+num_samples_in_parallel=N; memory holds what is in flight",
    "rollout_collection_driver": "gym_ray.collect(…) from a program of your own",
    "upload_rollouts": "`gym-ray export` the run, and upload that",
}


def parsed(model: type[Arguments], texts: Sequence[str]) -> tuple[Arguments, list[str]]:
    """Arguments of a command line.

    Args:
        model: of the command.
        texts: `+key=value`; values are YAML. Keys of gym-ray's config (`policy.model=…`) are taken,
            too.

    Returns:
        The arguments, and the assignments over gym-ray's config.

    Raises:
        ConfigError: one is not understood; the message says what to write instead.
    """
    own: list[str] = []
    overrides: list[str] = []
    for text in texts:
        assignment = _stripped(text)
        is_section = assignment.partition("=")[0].partition(".")[0] in _SECTIONS
        (overrides if is_section else own).append(assignment)
    tree = _tree(own)
    for key in tree:
        if key not in model.model_fields:
            raise ConfigError(_unknown(key, list(model.model_fields)))
    try:
        return model.model_validate(tree), overrides
    except pydantic.ValidationError as error:
        problems = "\n".join(_explain(model, problem) for problem in error.errors())
        raise ConfigError(problems) from None


_SECTIONS = [name for name in RunConfig.model_fields if name not in INTERNAL_FIELDS]


def _stripped(text: str) -> str:
    if text.startswith("~"):
        raise ConfigError(f"{text}: nothing can be taken out of a config; leave it out of the file")
    assignment = text.lstrip("+")
    key, separator, _ = assignment.partition("=")
    if not separator or not key:
        raise ConfigError(f"{text}: write +KEY=VALUE, e.g. +num_repeats=4")
    return assignment


def _tree(assignments: Sequence[str]) -> dict[str, Any]:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree: dict[str, Any] = {}
    try:
        merged = OmegaConf.from_dotlist(list(assignments))
        tree.update(OmegaConf.to_container(merged, resolve=True))
    except (yaml.YAMLError, OmegaConfBaseException, LookupError, ValueError) as error:
        raise ConfigError(f"{' '.join(assignments)}: not KEY=YAML: {error}") from None
    return tree


def _unknown(key: str, valid: Sequence[str]) -> str:
    if key in _INSTEAD:
        return f"+{key}: is not taken; write instead: {_INSTEAD[key]}"
    nearest = difflib.get_close_matches(key, [*valid, *_SECTIONS], n=1, cutoff=0.5)
    known = ", ".join(f"+{name}" for name in valid)
    hint = (
        f"did you mean {'+' * (nearest[0] in valid)}{nearest[0]}?" if nearest else f"valid: {known}"
    )
    return f"+{key}: unknown argument; {hint}"


def _explain(model: type[Section], problem: Mapping[str, Any]) -> str:
    *path, last = (str(part) for part in problem["loc"])
    key = ".".join([*path, last])
    if problem["type"] == "missing":
        flag = f" (or {_FLAGS[key]})" if key in _FLAGS else ""
        return f"+{key}=…{flag} is missing"
    if problem["type"] == "extra_forbidden":
        valid = list(ResponsesCreateParams.model_fields)
        nearest = difflib.get_close_matches(last, valid, n=1, cutoff=0.5) or valid
        return f"+{key}: has no effect here; valid: {', '.join(nearest)}"
    if key == "num_repeats" and isinstance(problem["input"], dict):
        return "+num_repeats: takes one number for all; run a command for each agent"
    if key == "should_download":
        return (
            "+should_download: nothing is downloaded; get the files first (e.g. `hf download "
            "REPOSITORY --repo-type dataset`) to where the configs name them"
        )
    return f"+{key}: {problem['msg']} (got {problem['input']!r})"
