"""The `gym-ray` command: its subcommands put together, and how it ends."""

from __future__ import annotations

import errno
import importlib.metadata
import sys
import traceback
from collections.abc import Callable
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
from gym_ray.errors import ConfigError, GymRayError

app = typer.Typer(
    name="gym-ray",
    help="Rollouts at scale: tasks and environments in, exact-token training data out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

#: Commands, and groups of them, by the work they are for.
_WORK: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Collect": (collect.collect, reverify.reverify, config.app, compat.app),
    "Look": (metrics.metrics,),
    "Data": (prepare.prepare, export.app, import_.app, hub.app),
    "Environments": (env.app, check_template.check_template),
    "Serve": (serve.serve, weights.weights),
}
for work, parts in _WORK.items():
    for part in parts:
        if isinstance(part, typer.Typer):
            app.add_typer(part, rich_help_panel=work)
        else:
            app.command(rich_help_panel=work)(part)


#: Taken off the arguments by `main`, since errors end up where no command is any more.
_DEBUG = "--debug"


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
    debug: Annotated[
        bool,
        typer.Option(
            _DEBUG, help="Print the traceback of an error, too. Goes anywhere in a command."
        ),
    ] = False,
) -> None:
    """Rollouts at scale: tasks and environments in, exact-token training data out."""


dressed(app)


def main() -> None:
    """Entry point of the `gym-ray` script. With `--debug`, errors have their traceback."""
    try:
        arguments = [argument for argument in sys.argv[1:] if argument != _DEBUG]
        app(arguments, prog_name="gym-ray")
    except GymRayError as error:
        _end(str(error), error, error.exit_code)
    except OSError as error:
        told = f"{_described(error)}{_cure(error)}"
        _end(f"{told}; what was collected is kept", error, GymRayError.exit_code)


def _described(error: OSError) -> str:
    """An error of the operating system, with where it came from if it names no file."""
    if error.filename is not None:
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return f"{error or name}{place}"


def _cure(error: OSError) -> str:
    """What to do about the disk, where that is what is wrong."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return ": make room there and re-issue the command"
        case errno.EROFS | errno.EPERM | errno.EACCES:
            return ": see that it may be written to and re-issue the command"
    return ""


def _end(message: str, error: Exception, exit_code: int) -> None:
    # Not at the top: reading a config should not wait for what reads datasets.
    from gym_ray.store.log_file import LogFile, log_of_command, noted_log

    log = noted_log(error)
    # What is wrong with a config its message says; of anything else there is more to know.
    if log is None and not isinstance(error, ConfigError):
        with LogFile(log_of_command("commands")) as file:
            file.failed(error)
        log = noted_log(error) if isinstance(error, OSError) else None
    if _DEBUG in sys.argv:
        traceback.print_exception(error)
    print(f"gym-ray: {message}", file=sys.stderr)
    if log is not None:
        print(f"gym-ray: {log}", file=sys.stderr)
    sys.exit(exit_code)
