"""The `gym-ray` command: its subcommands put together, and how it ends."""

from __future__ import annotations

import sys

import typer

from gym_ray.cli import (
    check_template,
    collect,
    compat,
    env,
    export,
    hub,
    import_,
    metrics,
    prepare,
    reverify,
    serve,
    weights,
)
from gym_ray.errors import GymRayError

app = typer.Typer(
    name="gym-ray",
    help="Rollouts at scale: tasks and environments in, exact-token training data out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    collect.collect,
    serve.serve,
    prepare.prepare,
    metrics.metrics,
    reverify.reverify,
    check_template.check_template,
    weights.weights,
):
    app.command()(command)
for group in (env, export, hub, compat, import_):
    app.add_typer(group.app)


@app.callback()
def _root() -> None:
    """Rollouts at scale: tasks and environments in, exact-token training data out."""


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
