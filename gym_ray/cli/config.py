"""`gym-ray config`: what a config says with everything put together, and whether it would run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gym_ray.cli.arguments import Config, Overrides
from gym_ray.errors import ConfigError

app = typer.Typer(
    name="config", help="Show and check configs without starting anything.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


@app.command()
def show(
    config: Config,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the values as JSON.")] = False,
) -> None:
    """Show every value of a config, and where it came from.

    A line of the file, the command line, the objective, or the default. What is printed is a
    config again; secrets are covered, and environment variables stand as they were written.

    Example:

      gym-ray config show deployments/laptop-cpu.yaml collect.num_repeats=4
    """
    import dataclasses
    import json as json_module

    from gym_ray.config.provenance import settings_of, to_yaml

    settings = settings_of(Path(config), overrides or [])
    if json:
        rows = [{"key": setting.key, **dataclasses.asdict(setting)} for setting in settings]
        typer.echo(json_module.dumps(rows, indent=2))
    else:
        typer.echo(to_yaml(settings))


@app.command()
def check(
    config: Config,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say whether a collection of a config would start, and what it would run.

    Makes every check that needs no engine, and reads the whole input. Starts nothing and leaves
    nothing in the output. Exit code 0 if all is well, 2 if not.

    Example:

      gym-ray config check deployments/laptop-cpu.yaml collect.output=runs/demo
    """
    from gym_ray.collection.plan import plan_of, render

    plan = plan_of(config, overrides or [])
    typer.echo(plan.to_json() if json else render(plan))
    if not plan.ok:
        failed = ", ".join(finding.check for finding in plan.findings if not finding.ok)
        raise ConfigError(f"{config} cannot be collected: {failed}")
