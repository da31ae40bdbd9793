"""`gym-ray env`: list, create and check environments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gym_ray.errors import GymRayError

app = typer.Typer(
    name="env", help="List, create and check environments.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


@app.command("list")
def list_environments(
    json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the environments that can be named in a config.

    Example:

      gym-ray env list
    """
    import inspect
    import json as json_module

    from gym_ray.registry import load_class, registered

    found = {}
    for name, target in sorted(registered().items()):
        about = inspect.getdoc(load_class(name, None, ".")) or ""
        found[name] = {"entrypoint": target, "about": about.split("\n")[0]}
    if json:
        typer.echo(json_module.dumps(found, indent=2))
        return
    width = max(map(len, found), default=0)
    for name, entry in found.items():
        typer.echo(f"{name:{width}}  {entry['about']}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A Python identifier.")],
    directory: Annotated[
        Path, typer.Option("--directory", help="Where the folder is made.", show_default=True)
    ] = Path("."),
) -> None:
    """Create an environment that runs as it is, to be changed into yours.

    Example:

      gym-ray env new demo && gym-ray env check demo && gym-ray collect demo/config.yaml
    """
    from gym_ray.authoring import create_environment

    files = create_environment(name, directory)
    for file in files:
        typer.echo(f"wrote {file}")
    folder = files[0].parent
    typer.echo(f"next: gym-ray env check {folder} && gym-ray collect {folder}/config.yaml")


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder with config.yaml, or a YAML config.")
    ],
    environment: Annotated[
        str | None,
        typer.Option("--environment", metavar="NAME", help="Which one, if it has several."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say whether an environment does what a run relies on; no model and no Ray needed.

    Loads it, verifies gold, empty and odd replies to its example rows through the ordinary
    runner, again, and many at once: rewards, determinism, deadlines, pickling, concurrency. Exit
    code 0 if all is well, 1 if not.

    Example:

      gym-ray env check environments/math
    """
    import dataclasses
    import json as json_module

    from gym_ray.authoring import check_environment

    report = check_environment(path, environment)
    if json:
        typer.echo(json_module.dumps(dataclasses.asdict(report), indent=2))
    else:
        for finding in report.findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.detail}")
    if not report.ok:
        failed = ", ".join(finding.check for finding in report.findings if not finding.ok)
        raise GymRayError(f"environment {report.environment} is not ready: {failed}")
