"""Preconditions: what every command that starts an application refuses before anything starts.

Owned here: the order, and what only holds on the machine where everything will run. Each check is
where what it checks is. Not owned here: what one command alone needs, such as an output.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gym_ray.config.load import RunConfig
from gym_ray.errors import ConfigError
from gym_ray.serving.cluster import require_gpus, starts_here
from gym_ray.serving.engines import check_engine
from gym_ray.serving.gpus import gpus_here
from gym_ray.serving.policy_renderer import check_renderer
from gym_ray.telemetry.traces import require_traces


def check_application(config: RunConfig, *, listens: bool, local: bool = False) -> None:
    """Refuse a config whose application could only fail.

    Args:
        config: what will be started.
        listens: an HTTP gateway will be started with it.
        local: it will run in processes of this command, and not on Ray.

    Raises:
        ConfigError: policy or a judge could not start, this machine lacks GPUs, a program or a
            free port, the renderer cannot carry an agent, or a library is missing.
    """
    here = local or starts_here()
    require_traces(config.observability.trace_share)
    if here:
        have = gpus_here()
        if have is not None:
            require_gpus(config, have)
        _require_programs(config)
        if listens:
            from gym_ray.serving.http import require_free_port

            require_free_port(config.serve)
    check_policies(config, here=here)


def check_policies(config: RunConfig, *, here: bool) -> None:
    """Refuse a policy or a judge that could not start, or that cannot act as an agent has to.

    It may ask the Hub for a model, and loads a tokenizer where agents take several turns.

    Args:
        config: what will be started.
        here: replicas will run on this machine, so that what is missing here is missing there.

    Raises:
        ConfigError: see `check_engine` and `check_renderer`.
    """
    check_engine(config.policy, section="policy", here=here)
    for name, judge in config.judges.items():
        check_engine(judge, section=f"judges.{name}", here=here)
    check_renderer(config)


def _require_programs(config: RunConfig) -> None:
    """See that the programs that environments start are there, and variables that they read."""
    for name, section in config.environments.items():
        if section.external is not None and section.external.command is not None:
            program = section.external.command[0]
            key = f"environments.{name}.external.command"
            _require_program(key, program, Path(config.base_directory), os.environ.get("PATH"))
        for server, mcp in section.mcp_servers.items():
            if mcp.command is not None:
                key = f"environments.{name}.mcp_servers.{server}.command"
                path = mcp.env.get("PATH", os.environ.get("PATH"))
                _require_program(key, mcp.command, Path.cwd(), path)
            absent = sorted(set(mcp.header_variables.values()) - os.environ.keys())
            if absent:
                raise ConfigError(
                    f"environments.{name}.mcp_servers.{server}.header_variables: environment "
                    f"variables {', '.join(absent)} are not set; export them"
                )


def _require_program(key: str, program: str, folder: Path, path: str | None) -> None:
    """Refuse a program that cannot be started.

    Args:
        key: what names it, for the message.
        program: its name, or its path, which counts from `folder`.
        folder: where it is started.
        path: folders that a name is looked for in.
    """
    if "/" in program:
        if not os.access(folder / program, os.X_OK):
            raise ConfigError(f"{key}: {folder / program} is no program that can be started")
    elif shutil.which(program, path=path) is None:
        raise ConfigError(f"{key}: no program {program!r} is found in PATH")
