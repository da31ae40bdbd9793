"""An application that is declared rather than started: `serve deploy FILE`, KubeRay's RayService.

Owned here: the builder such a file names, `gym_ray.serving.declared:application`. Gateway, policy,
judges and environments are one Serve application here, which Serve keeps up, updates and takes
down as its file says; there are no leases, and no command that owns it. Collections do not use it:
they start an application of their own, with a life of its own (`application.py`).
"""

from __future__ import annotations

import dataclasses
import os
import uuid
from pathlib import Path
from typing import Any

import pydantic
from pydantic import Field

from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError
from gym_ray.registry import with_agents
from gym_ray.serving.application import build
from gym_ray.serving.gateway import Batches, Gateway, GatewayPlan
from gym_ray.serving.gateway_application import batches_deployment, gateway_deployment
from gym_ray.serving.preconditions import check_policies


class Arguments(pydantic.BaseModel):
    """`args` of the application in a Serve config file."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    config: str | dict[str, Any]
    """A YAML file, absolute or in the application's `working_dir`, or what would be in it."""
    overrides: list[str] = Field(default_factory=list)
    """Dotted assignments over it, as on the command line."""


def application(args: dict[str, Any]) -> Any:
    """The bound Serve graph of a config with its gateway as ingress.

    Args:
        args: those of the Serve config file, see `Arguments`. Serve would make the model itself,
            but not of an annotation that is a string, as all are in this module.

    Raises:
        pydantic.ValidationError: `args` are not those of `Arguments`.
        ConfigError: the config is wrong, or `serve.output` is set: only `gym-ray serve` records.
    """
    arguments = Arguments.model_validate(args)
    config = with_agents(load_config(arguments.config, arguments.overrides))
    check_policies(config, here=False)
    if config.serve.output is not None:
        raise ConfigError(
            "serve.output: a declared application records nothing, since it has no process that "
            "owns the folder; leave it out, or use gym-ray serve"
        )
    folder = Path(config.base_directory)
    if folder.is_relative_to(Path.cwd()):
        # Replicas run in copies of the working folder, whose place differs from node to node.
        base_directory = str(folder.relative_to(Path.cwd()))
        config = config.model_copy(update={"base_directory": base_directory})
    core = build(config)
    batches = batches_deployment(DeclaredBatches).bind(config, core)
    return gateway_deployment(DeclaredGateway, config).bind(config, core, batches)


class DeclaredGateway(Gateway):
    """A gateway in the application it calls, which it asks what is served once that is up.

    Args:
        config: the whole config.
        front: Serve handle of the application's `Front`.
        batches: Serve handle of `DeclaredBatches`.

    Raises:
        ConfigError: a variable that names a key is not set where this replica runs.
    """

    async def __init__(  # type: ignore[misc]
        self, config: RunConfig, controller: Any, batches: Any
    ) -> None:
        plan = dataclasses.replace(
            await _plan(config, controller),
            api_key=_api_key(config),
            admin_key=os.environ.get(config.serve.admin_key_env or "") or None,
        )
        await super().__init__(plan, batches)


class DeclaredBatches(Batches):
    """The batches of such a gateway, which checks the keys."""

    async def __init__(self, config: RunConfig, controller: Any) -> None:  # type: ignore[misc]
        super().__init__(await _plan(config, controller))


async def _plan(config: RunConfig, controller: Any) -> GatewayPlan:
    from ray import serve

    return GatewayPlan(
        config=config,
        core=serve.get_replica_context().app_name,
        policy=await controller.describe.remote(),
        run_id=uuid.uuid4().hex[:12],
    )


def _api_key(config: RunConfig) -> str | None:
    """The bearer key; read by the replica, so that no copy of it is in Serve's records."""
    variable = config.serve.api_key_env
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise ConfigError(
            f"serve.api_key_env: {variable} is not set where the gateway runs; set it there (on "
            "Kubernetes from a Secret), or set serve.api_key_env=null to ask for no key"
        )
    return os.environ[variable]
