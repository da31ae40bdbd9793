"""The `gym-ray` command: its subcommands put together, and how it ends."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import sys
import traceback
from typing import Annotated

import typer

from gym_ray.cli import (
    check_template,
    collect,
    compat,
    config,
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
from gym_ray.cli.help import dressed
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
for group in (config, env, export, hub, compat, import_):
    app.add_typer(group.app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"gym-ray {importlib.metadata.version('gym-ray')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Rollouts at scale: tasks and environments in, exact-token training data out."""


dressed(app)


def main() -> None:
    """Entry point of the `gym-ray` script.

    With `GYM_RAY_TRACEBACK` set, errors have their traceback.
    """
    try:
        app()
    except GymRayError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        told = f"{_described(error)}{_cure(error)}"
        _end(f"{told}; what was collected is kept", GymRayError.exit_code)


def _described(error: OSError) -> str:
    """An error of the operating system, with where it came from if it names no file."""
    if error.filename is not None:
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return f"{error or name}{place}; set GYM_RAY_TRACEBACK=1 to see how it came about"


def _cure(error: OSError) -> str:
    """What to do about the disk, where that is what is wrong."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return ": make room there and re-issue the command"
        case errno.EROFS | errno.EPERM | errno.EACCES:
            return ": see that it may be written to and re-issue the command"
    return ""


def _end(message: str, exit_code: int) -> None:
    if os.environ.get("GYM_RAY_TRACEBACK"):
        traceback.print_exc()
    print(f"gym-ray: {message}", file=sys.stderr)
    sys.exit(exit_code)
