"""`gym-ray prepare`: task files checked, split and blended."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gym_ray.cli.arguments import Config, Overrides, Quiet
from gym_ray.errors import ConfigError


def prepare(
    config: Config,
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder of the prepared files.")
    ],
    overrides: Overrides = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ENVIRONMENT=]FILE",
            help="Training rows, in place of the files the config declares.",
        ),
    ] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ENVIRONMENT=]FILE", help="Validation rows, in place of the declared files."
        ),
    ] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ENVIRONMENT=]FILE", help="Example rows, in place of the declared files."
        ),
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="Declared files of type example, not the others.")
    ] = False,
    on_invalid: Annotated[
        Literal["fail", "drop"],
        typer.Option(
            help="fail: write nothing if a row is rejected; drop: leave it out.",
        ),
    ] = "fail",
    on_metrics_conflict: Annotated[
        Literal["overwrite", "fail"],
        typer.Option(
            help="fail: where metrics in DIR are not what the rows give now, write only those.",
        ),
    ] = "overwrite",
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Only the first of rows with the same content.")
    ] = False,
    validation_share: Annotated[
        float,
        typer.Option(help="Share of the training rows to hold out, chosen by each row's hash."),
    ] = 0.0,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="YAML", help="Template that makes task rows of raw rows."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Count input tokens as this model has them.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Check task rows, and blend them into data for training.

    Writes train.jsonl, validation.jsonl, the same as Parquet, and metrics. Every rejected row is
    reported with file, line, field and reason. Exit code 1 if rows were rejected, unless they were
    to be dropped.

    Example:

      gym-ray prepare environments/math/config.yaml --train tasks.jsonl --validation-share 0.1 \\
        --output data/math
    """
    from gym_ray.compat.metrics_conflicts import differences
    from gym_ray.config.load import load_config
    from gym_ray.prepare import prepare as run
    from gym_ray.prepare.prepare_report import demand_prepared, render
    from gym_ray.prepare.task_files import named

    checked = load_config(config, overrides or [])
    files = named("train", train or [], checked)
    files += named("validation", validation or [], checked)
    files += named("example", example or [], checked)
    if files and examples:
        raise ConfigError("--examples chooses among declared files, and files were named")
    report = run(
        checked,
        output,
        task_files=files,
        splits=("example",) if examples else ("train", "validation"),
        on_invalid=on_invalid,
        compare_metrics=differences if on_metrics_conflict == "fail" else None,
        deduplicate=deduplicate,
        validation_share=validation_share,
        prompt=prompt,
        tokenizer=tokenizer,
        quiet=quiet,
    )
    typer.echo(report.to_json() if json else render(report))
    demand_prepared(report)
