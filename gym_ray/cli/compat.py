"""`gym-ray compat`: NeMo Gym's commands, with their arguments. See docs/migration.md."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gym_ray.cli.arguments import Quiet

app = typer.Typer(
    name="compat", help="NeMo Gym's commands, by our pipeline.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

_Arguments = Annotated[
    list[str], typer.Argument(metavar="+KEY=VALUE", help="As NeMo Gym takes them.")
]


@app.command("ng_collect_rollouts")
def ng_collect_rollouts(
    arguments: _Arguments,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Collect rollouts, and write NeMo Gym's files of them beside ours.

    Which policy and environments: +config_paths, gym-ray configs and NeMo Gym's. Keys of gym-ray's
    config can be given, too (collect.max_attempts=5).

    Example:

      gym-ray compat ng_collect_rollouts "+config_paths=[environments/math/config.yaml]" \\
        +agent_name=math_with_judge_simple_agent +input_jsonl_fpath=tasks.jsonl \\
        +output_jsonl_fpath=results/rollouts.jsonl +num_repeats=4 \\
        +responses_create_params.temperature=0.7
    """
    from gym_ray.compat.collect_rollouts import collect_rollouts, demand

    collected = collect_rollouts(arguments, quiet=quiet)
    typer.echo(collected.to_json() if json else collected.render())
    demand(collected)


@app.command("ng_prepare_data")
def ng_prepare_data(
    arguments: _Arguments,
    on_invalid: Annotated[
        Literal["fail", "drop"],
        typer.Option(help="fail: write nothing if a row is rejected; drop: leave it out."),
    ] = "fail",
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Check and collate the declared task files, and write NeMo Gym's files beside them.

    Example:

      gym-ray compat ng_prepare_data \\
        "+config_paths=[resources_servers/mcqa/configs/mcqa.yaml]" +mode=example_validation \\
        +output_dirpath=data/mcqa
    """
    from gym_ray.compat.prepare_data import demand, prepare_data
    from gym_ray.prepare.prepare_report import render

    prepared = prepare_data(arguments, on_invalid=on_invalid, quiet=quiet)
    told = "\n".join(part for part in (render(prepared.report), prepared.render()) if part)
    typer.echo(prepared.to_json() if json else told)
    demand(prepared)
