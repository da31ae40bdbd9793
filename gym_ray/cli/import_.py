"""`gym-ray import`: datasets of rollouts made of what other tools wrote."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gym_ray.cli.arguments import Quiet
from gym_ray.errors import GymRayError

app = typer.Typer(
    name="import", help="Make datasets of rollouts of other tools' files.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


@app.callback()
def _root() -> None:
    """Make datasets of rollouts of other tools' files."""


@app.command()
def atif(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILES", help=".jsonl: a trajectory a line; others: one each."),
    ],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="New folder.")],
    environment: Annotated[
        str,
        typer.Option(
            "--environment", metavar="NAME", help="Environment named in rollouts of other tools."
        ),
    ] = "",
    on_invalid: Annotated[
        Literal["fail", "drop"],
        typer.Option(help="fail: write nothing if a trajectory is rejected; drop: leave it out."),
    ] = "fail",
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Rollouts of trajectories in the Agent Trajectory Interchange Format (ATIF v1.0 to v1.8).

    Trajectories of `gym-ray export atif` become the rollouts they were, token for token. Every
    trajectory that cannot be read is reported with file, line, field and reason.

    Example:

      gym-ray import atif exports/demo-atif/trajectories.jsonl --output runs/demo-again
    """
    from gym_ray.atif.imports import import_atif, render

    report = import_atif(files, output, environment=environment, on_invalid=on_invalid, quiet=quiet)
    typer.echo(report.to_json() if json else render(report))
    if report.rejected and on_invalid == "fail":
        raise GymRayError(
            f"{report.rejected} of {report.read} trajectories cannot be read, and nothing was "
            "written. Correct them, or leave them out with --on-invalid drop"
        )
    if not report.rollouts:
        raise GymRayError(f"none of {report.read} trajectories is left, and nothing was written")
