"""`gym-ray serve`: the policy and the environments over HTTP."""

from __future__ import annotations

import typer

from gym_ray.cli.arguments import Config, Overrides


def serve(
    config: Config,
    overrides: Overrides = None,
) -> None:
    """Serve policy and environments over HTTP until Ctrl-C.

    OpenAI's API at /v1, whole rollouts at /run and /batches, at serve.host and serve.port.
    Clients send the key in the environment variable serve.api_key_env names, where it is set.

    On a cluster (RAY_ADDRESS set) collections with the same policy, environments and
    verification sections use the running application instead of starting their own.

    Example:

      gym-ray serve deployments/laptop-cpu.yaml serve.port=8080
    """
    from gym_ray.serving.serve import serve as run

    run(config, overrides or [], report=lambda line: typer.echo(line, err=True))
