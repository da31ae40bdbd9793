"""The command line. Exit codes: 0 fine, 1 error, 2 usage or config, 3 too many rollouts failed,
130 interrupted and resumable.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gym_ray.errors import FailedShareExceeded, GymRayError, Interrupted

app = typer.Typer(
    name="gym-ray",
    help="Rollouts at scale: tasks and environments in, exact-token training data out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """Rollouts at scale: tasks and environments in, exact-token training data out."""


@app.command()
def collect(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML config file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Dotted assignments over the config."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> None:
    """Collect verified rollouts into a Parquet dataset.

    Re-issuing the same command continues where it stopped. Ctrl-C lets rollouts in flight
    finish (collect.drain_timeout_seconds) and leaves a directory that can be continued.

    Example:

      gym-ray collect deployments/laptop-cpu.yaml collect.output=runs/demo collect.num_repeats=4
    """
    from gym_ray.collection import collect as run
    from gym_ray.config import load_config

    # Read once: the file may be another one by the time the run ends.
    checked = load_config(config, overrides or [])
    summary = run(checked, quiet=quiet)
    if json:
        typer.echo(summary.to_json())
    else:
        from gym_ray.collection.report import render

        typer.echo(render(summary))
    if summary.interrupted is not None and summary.pending:
        raise Interrupted(
            f"stopped early ({summary.interrupted}); {summary.pending} rollouts are left: "
            "re-issue the same command to continue"
        )
    limit = checked.collect.max_failed_share
    if summary.failed_share > limit:
        raise FailedShareExceeded(
            f"{summary.failed} of {summary.expected} rollouts failed, more than "
            f"collect.max_failed_share={limit:g} allows"
        )
    if summary.pending:
        raise GymRayError(
            f"{summary.pending} rollouts are left; re-issue the same command to continue"
        )


@app.command()
def serve(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML config file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Dotted assignments over the config."),
    ] = None,
) -> None:
    """Start the policy and environments of a config and stay up until Ctrl-C.

    On a cluster (RAY_ADDRESS set) collections with the same policy, environments and
    verification sections use the running application instead of starting their own.

    Example:

      RAY_ADDRESS=auto gym-ray serve deployments/single-gpu.yaml
    """
    from gym_ray.serving.serve import serve as run

    run(config, overrides or [], report=lambda line: typer.echo(line, err=True))


def main() -> None:
    """Entry point of the `gym-ray` script."""
    try:
        app()
    except GymRayError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        _end(f"{error}; what was collected is kept", GymRayError.exit_code)


def _end(message: str, exit_code: int) -> None:
    print(f"gym-ray: {message}", file=sys.stderr)
    sys.exit(exit_code)
