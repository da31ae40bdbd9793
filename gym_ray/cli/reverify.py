"""`gym-ray reverify`: rewards of stored rollouts computed anew."""

from __future__ import annotations

from typing import Annotated

import typer

from gym_ray.cli.arguments import Overrides, Quiet, Rollouts, TrustRun


def reverify(
    rollouts: Rollouts,
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder of the new dataset.")
    ],
    overrides: Overrides = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="CONFIG", help="Config to judge by, in place of the run's run.yaml."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON on standard output.")
    ] = False,
    trust_run: TrustRun = False,
    quiet: Quiet = False,
) -> None:
    """Compute the rewards of stored rollouts anew.

    For a verifier that was changed, or that failed when the rollouts were collected. Writes a new
    dataset, samples nothing, and says which rewards changed. Re-issuing the same command continues
    where it stopped.

    Example:

      gym-ray reverify runs/demo --output runs/demo-strict environments.math.params.require_box=true
    """
    from gym_ray.reverification.report import demand_complete, render_changes
    from gym_ray.reverification.reverify import reverify as run

    report = run(
        rollouts,
        output,
        config=config,
        overrides=overrides or [],
        trust_run=trust_run,
        quiet=quiet,
    )
    typer.echo(report.to_json() if json else render_changes(report))
    demand_complete(report)
