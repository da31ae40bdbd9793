"""`gym-ray collect`: rollouts from task prompts and environments."""

from __future__ import annotations

from typing import Annotated

import typer

from gym_ray.cli.arguments import Config, Overrides, Quiet


def collect(
    config: Config,
    overrides: Overrides = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="rl|sft|dpo",
            help="Sets the temperature and repeats that the config does not: docs/sampling.md.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="local|ray",
            help="Where it runs: in processes of this command, or on Ray. Left out, in processes "
            "of this command where one replica of everything suffices and RAY_ADDRESS is not set.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Collect verified rollouts into a Parquet dataset.

    Re-issuing the same command continues where it stopped. Ctrl-C lets rollouts in flight
    finish (collect.drain_timeout_seconds) and leaves a directory that can be continued.

    Example:

      gym-ray collect deployments/laptop-cpu.yaml collect.output=runs/demo collect.num_repeats=4

      gym-ray collect deployments/laptop-cpu.yaml --objective sft collect.output=runs/sft
    """
    from gym_ray.collection import collect as run
    from gym_ray.collection.report import demand_complete, render
    from gym_ray.config.load import load_config

    # Read once: the file may be another one by the time the run ends.
    from_objective = [] if objective is None else [f"collect.objective={objective}"]
    from_cluster = [] if cluster is None else [f"cluster={cluster}"]
    checked = load_config(config, [*from_objective, *from_cluster, *(overrides or [])])
    summary = run(checked, quiet=quiet)
    typer.echo(summary.to_json() if json else render(summary))
    demand_complete(summary, max_failed_share=checked.collect.max_failed_share)
