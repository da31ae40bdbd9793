"""`gym-ray weights`: the weights of a running policy."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import typer

from gym_ray.errors import ConfigError


def weights(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Config of the running application.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Dotted assignments it was started with."),
    ] = None,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Version of the new weights.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="DIR", help="Folder with the new weights."),
    ] = None,
    mode: Annotated[
        Literal["keep", "drain"],
        typer.Option(help="Generations in flight: go on under the new weights, or end first."),
    ] = "keep",
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show or replace the weights of a running policy.

    Replica by replica, for an application of `collect` or `serve` on the cluster RAY_ADDRESS names.
    An update is done when every replica has the weights; repeating it does nothing.

    Example:

      gym-ray weights deployments/laptop-cpu.yaml --version 1 --checkpoint checkpoints/step-100
    """
    from gym_ray.policies.weights import WeightsUpdate
    from gym_ray.serving.weights_command import render, update_weights
    from gym_ray.serving.weights_command import weights as show

    if (version is None) != (checkpoint is None):
        raise ConfigError("give both --version and --checkpoint, or neither to see what there is")
    if version is None or checkpoint is None:
        report = show(config, overrides or [])
    else:
        update = WeightsUpdate(version=version, source=str(checkpoint.resolve()), mode=mode)
        report = update_weights(config, update, overrides or [])
    typer.echo(dumps(report.to_json()) if json else render(report))
