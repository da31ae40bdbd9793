"""Ray jobs: what a collection inside one has to mind, and what `ray job submit` is told.

Owned here: the runtime environment and the metadata of a job (`scripts/submit.sh` prints them by
`python -m gym_ray.serving.job`), and the two things a driver inside a job does differently. Not
owned: uploading, starting and stopping it, which Ray's own job server and command do, token
authentication included.

A job's folder is the one it was submitted from, as a copy on every node, so environments and tasks
in it travel along. It is thrown away with the job: the output has to be elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError

#: Where Ray's job server puts a job's runtime environment and metadata, in its driver.
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"

#: Patterns, as in .gitignore, of what no node needs, and of secrets; Ray adds those of .gitignore
#: and .rayignore.
_EXCLUDES = (
    ".env",
    "/runs",
    ".git",
    ".venv",
    "venv",
    ".bootstrap",
    ".nemo-gym",
    ".cache",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
)

#: Credentials and addresses that are as good on the cluster as here. `AWS_…` are matched apart.
_VARIABLES = (
    "HF_TOKEN",
    "HF_ENDPOINT",
    "GYM_RAY_API_KEY",
    "OPENAI_API_KEY",
    "WANDB_API_KEY",
    "WANDB_PROJECT",
    "MLFLOW_TRACKING_URI",
)

#: Names a person adds, separated by spaces.
_MORE_VARIABLES = "GYM_RAY_JOB_VARIABLES"

#: `AWS_…` that name files or profiles of this machine.
_LOCAL_AWS = re.compile(r"AWS_(.*PROFILE|.*_FILE|CA_BUNDLE)")

#: What follows the drain before a driver has ended: stages are told to stop (30 s), the
#: application is taken down (60 s), a complete run is compacted.
_AFTER_DRAIN_SECONDS = 150


def job_variables() -> frozenset[str]:
    """Names of the environment variables the surrounding job sets; none outside of a job."""
    return frozenset(_runtime_environment().get("env_vars", {}))


def require_kept_output(key: str, output: str) -> None:
    """Refuse an output that would be thrown away with the job's folder.

    Args:
        key: what sets it, for the message.
        output: the folder, or its URL.

    Raises:
        ConfigError: inside a job with a folder of its own, it is relative.
    """
    if "working_dir" in _runtime_environment():
        _require_absolute(key, output)


def folder_on_every_node(folder: str) -> str:
    """A folder as replicas and stages can find it, on whichever node they are.

    Inside a job that is relative to the job's folder, in whose copy every worker runs: nodes keep
    their copies under temporary folders of their own.
    """
    if "working_dir" not in _runtime_environment():
        return folder
    here, path = Path.cwd().resolve(), Path(folder).resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else folder


def _require_absolute(key: str, output: str) -> None:
    if "://" not in output and not Path(output).is_absolute():
        raise ConfigError(
            f"{key} {output!r} is relative, and a job's folder is thrown away with it; "
            f"name a folder that every node of the cluster has, e.g. /shared/{output}"
        )


def _runtime_environment() -> Mapping[str, Any]:
    """The runtime environment of the job this process is the driver of; empty outside of one."""
    job = json.loads(os.environ.get(_JOB_VARIABLE, "{}"))
    return job.get("runtime_env") or {}


def runtime_environment(
    config: RunConfig, folder: Path, variables: Mapping[str, str]
) -> dict[str, Any]:
    """What `ray job submit --runtime-env` is given for a collection.

    Args:
        config: what is collected.
        folder: is copied to every node, but for `runs/`, `.git`, `.env`, virtual environments and
            caches.
        variables: of the submitting process. Passed on are credentials by name, the ones the
            config names (`${oc.env:…}`, `api_key_env`), and those in `GYM_RAY_JOB_VARIABLES`.

    Raises:
        ConfigError: the config needs a file outside of `folder`, its output is relative, or a
            variable in `GYM_RAY_JOB_VARIABLES` is not set.
    """
    _require_absolute("collect.output", config.collect.output)
    _require_inside(config, folder.resolve())
    grace = int(config.collect.drain_timeout_seconds) + _AFTER_DRAIN_SECONDS
    return {
        "working_dir": str(folder.resolve()),
        "excludes": list(_EXCLUDES),
        "env_vars": {
            **{name: variables[name] for name in _passed(config, variables)},
            # `ray job stop` kills after so long; Ray's default of 3 s would cut the drain short.
            "RAY_JOB_STOP_WAIT_TIME_S": str(grace),
        },
    }


def metadata(config_file: str, config: RunConfig) -> dict[str, str]:
    """What `ray job submit --metadata-json` is given: what is run and where the dataset will be."""
    output = config.collect.output.rstrip("/")
    return {
        "name": f"gym-ray {Path(output).name}",
        "gym_ray_config": config_file,
        "gym_ray_model": config.policy.model,
        "gym_ray_output": output,
        "gym_ray_summary": f"{output}/summary.json",
    }


def _require_inside(config: RunConfig, folder: Path) -> None:
    """Everything that is named relative to the config or the folder has to travel with it."""
    base = Path(config.base_directory).resolve()
    if not base.is_relative_to(folder):
        raise ConfigError(
            f"the config is in {base}, outside of {folder}, which is what is sent to the cluster; "
            "submit from a folder that holds both"
        )
    for name, section in config.environments.items():
        module = (section.entrypoint or "").rpartition(":")[0]
        path = Path(base, module)
        is_path = bool(module) and ("/" in module or path.exists())
        if is_path and not path.resolve().is_relative_to(folder):
            raise ConfigError(
                f"environments.{name}.entrypoint {section.entrypoint!r} is outside of {folder}, "
                "which is what is sent to the cluster; submit from a folder that holds it"
            )


def _passed(config: RunConfig, variables: Mapping[str, str]) -> list[str]:
    """Names of the variables that go along, of those that are set."""
    more = variables.get(_MORE_VARIABLES, "").split()
    for name in more:
        if name not in variables:
            raise ConfigError(f"{_MORE_VARIABLES} names {name}, which is not set")
    names = {*_VARIABLES, *more, *_named_in(config)}
    names |= {name for name in variables if name.startswith("AWS_")}
    return sorted(
        name for name in names if name in variables and (name in more or not _is_local(name))
    )


def _is_local(name: str) -> bool:
    return _LOCAL_AWS.fullmatch(name) is not None


def _named_in(config: RunConfig) -> set[str]:
    """Variables the config reads: interpolations, and keys of endpoints."""
    names = config.environment_variables()
    for policy in (config.policy, *config.judges.values()):
        if isinstance(variable := policy.engine_args.get("api_key_env"), str):
            names.add(variable)
    return names


def main(arguments: Sequence[str]) -> None:
    """For `scripts/submit.sh`: print the runtime environment and the metadata, a JSON line each.

    Args:
        arguments: of `gym-ray collect`: CONFIG, then overrides.
    """
    config_file, *overrides = arguments
    try:
        if Path(config_file).is_absolute():
            raise ConfigError(f"{config_file}: name it relative to the folder that is sent along")
        config = load_config(config_file, overrides)
        print(json.dumps(runtime_environment(config, Path.cwd(), os.environ)))
        print(json.dumps(metadata(config_file, config)))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])
