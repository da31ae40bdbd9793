"""The command line. Exit codes: 0 fine, 1 error, 2 usage or config, 3 too many rollouts failed,
130 interrupted and resumable.
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from gym_ray.cli import compat as compat_cli
from gym_ray.cli import env as environment_cli
from gym_ray.cli import export as export_cli
from gym_ray.cli import hub as hub_cli
from gym_ray.cli import import_ as import_cli
from gym_ray.cli import weights as weights_cli
from gym_ray.errors import ConfigError, FailedShareExceeded, GymRayError, Interrupted

app = typer.Typer(
    name="gym-ray",
    help="Rollouts at scale: tasks and environments in, exact-token training data out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.add_typer(environment_cli.app)
app.add_typer(export_cli.app)
app.add_typer(hub_cli.app)
app.add_typer(compat_cli.app)
app.add_typer(import_cli.app)
app.command()(weights_cli.weights)


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
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="rl|sft|dpo",
            help="Sets the temperature and repeats that the config does not: docs/sampling.md.",
        ),
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

      gym-ray collect deployments/laptop-cpu.yaml --objective sft collect.output=runs/sft
    """
    from gym_ray.collection import collect as run
    from gym_ray.collection.report import demand_complete, render
    from gym_ray.config.load import load_config

    # Read once: the file may be another one by the time the run ends.
    from_objective = [] if objective is None else [f"collect.objective={objective}"]
    checked = load_config(config, [*from_objective, *(overrides or [])])
    summary = run(checked, quiet=quiet)
    typer.echo(summary.to_json() if json else render(summary))
    demand_complete(summary, max_failed_share=checked.collect.max_failed_share)


@app.command()
def reverify(
    rollouts: Annotated[
        str, typer.Argument(metavar="ROLLOUTS", help="Run directory, or folder of shards.")
    ],
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder of the new dataset.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Dotted assignments over the config."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="CONFIG", help="Instead of the run's own run.yaml."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> None:
    """Compute the rewards of stored rollouts anew, into a new dataset; nothing is sampled.

    For a verifier that was changed, or that failed when the rollouts were collected. Says which
    rewards changed. Re-issuing the same command continues where it stopped.

    Example:

      gym-ray reverify runs/demo --output runs/demo-strict environments.math.params.require_box=true
    """
    from gym_ray.reverification.report import render_changes
    from gym_ray.reverification.reverify import reverify as run

    report = run(rollouts, output, config=config, overrides=overrides or [], quiet=quiet)
    typer.echo(report.to_json() if json else render_changes(report))
    again = "re-issue the same command to continue"
    if report.interrupted is not None:
        raise Interrupted(
            f"stopped early ({report.interrupted}); {report.pending} rollouts are left: {again}"
        )
    if report.pending:
        raise GymRayError(f"{report.pending} rollouts are left; {again}")
    if report.failed_share > report.max_failed_share:
        raise FailedShareExceeded(
            f"{report.changes.failed_now} of {report.changes.rollouts} verifications failed, more "
            f"than collect.max_failed_share={report.max_failed_share:g} allows"
        )


@app.command()
def metrics(
    rollouts: Annotated[
        str, typer.Argument(metavar="ROLLOUTS", help="Run directory, or folder of shards.")
    ],
    other: Annotated[
        str | None,
        typer.Argument(metavar="[ROLLOUTS_B]", help="A second run, to compare with the first."),
    ] = None,
    k: Annotated[
        str | None,
        typer.Option("--k", metavar="K,…", help="k of the scores at k; by default 1, 2, 4, …"),
    ] = None,
    success: Annotated[
        float, typer.Option("--success", help="Rewards from here on count as passed.")
    ] = 1.0,
    confidence: Annotated[
        float,
        typer.Option(
            "--confidence", help="Confidence level of the intervals and of the comparison."
        ),
    ] = 0.95,
    resamples: Annotated[
        int, typer.Option("--resamples", help="Bootstrap resamples and random sign changes.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap resamples.")] = 0,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="FILE", help="Write the scores of every task, as JSONL."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the metrics as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> None:
    """Metrics of a run: mean reward and pass@k with intervals, failures, turns, tokens.

    With a second run, compares both on the tasks they share, paired, and says whether the
    difference is significant. Definitions are in docs/metrics.md.

    Example:

      gym-ray metrics runs/demo

      gym-ray metrics runs/before runs/after --json
    """
    from gym_ray.cli.metrics import run_metrics

    text = run_metrics(
        rollouts,
        other,
        ks=k,
        success=success,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        tasks=tasks,
        as_json=json,
        quiet=quiet,
    )
    typer.echo(text)


@app.command()
def serve(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML config file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Dotted assignments over the config."),
    ] = None,
) -> None:
    """Serve the policy and environments of a config over HTTP until Ctrl-C.

    OpenAI's API at /v1, whole rollouts at /run and /batches, at serve.host and serve.port.
    Clients send the key in the environment variable serve.api_key_env names, where it is set.

    On a cluster (RAY_ADDRESS set) collections with the same policy, environments and
    verification sections use the running application instead of starting their own.

    Example:

      gym-ray serve deployments/laptop-cpu.yaml serve.port=8001
    """
    from gym_ray.serving.serve import serve as run

    run(config, overrides or [], report=lambda line: typer.echo(line, err=True))


@app.command()
def check_template(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Checkpoint directory, bundled:NAME, or Hugging Face name."
        ),
    ],
    renderer: Annotated[
        str, typer.Option("--renderer", metavar="FAMILY", help="As policy.renderer.")
    ] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say whether multi-turn rollouts of a model can be continued token for token.

    Compares, on CPU and without weights, the renderer's continuation of probe conversations with
    a full render, and its full render with the model's own chat template; shows the first
    differing tokens. Exit code 0 if exact continuation holds, 1 if not, 2 if there is no such
    model or renderer.

    Example:

      gym-ray check-template bundled:smollm2-135m

      gym-ray check-template ./my-finetune --renderer qwen3 --json
    """
    from gym_ray.policies.bundled import resolve_model
    from gym_ray.renderers import load_renderer
    from gym_ray.renderers.check import check_template as check
    from gym_ray.renderers.check import render_report

    report = check(load_renderer(resolve_model(model), renderer))
    if json:
        import dataclasses
        import json as json_module

        typer.echo(json_module.dumps({"model": model, **dataclasses.asdict(report)}, indent=2))
    else:
        typer.echo(render_report(report))
    if not report.exact:
        raise GymRayError(
            f"{model} with renderer {report.family} cannot be continued exactly; if it is a "
            "fine-tune of a known family, name that with --renderer"
        )


@app.command()
def prepare(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML config file.")],
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder of the prepared files.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Dotted assignments over the config."),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(metavar="[ENVIRONMENT=]FILE", help="Instead of what the config declares."),
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(metavar="[ENVIRONMENT=]FILE", help="Likewise.")
    ] = None,
    example: Annotated[
        list[str] | None, typer.Option(metavar="[ENVIRONMENT=]FILE", help="Likewise.")
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
        typer.Option(metavar="YAML", help="Template (user, system) for the input of raw rows."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Count input tokens as this model has them.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> None:
    """Check task rows, split and blend them into training data, and say what is wrong.

    Writes train.jsonl, validation.jsonl, the same as Parquet, and metrics. Every rejected row is
    reported with file, line, field and reason. Exit code 1 if rows were rejected, unless they were
    to be dropped.

    Example:

      gym-ray prepare environments/math/config.yaml --train tasks.jsonl --validation-share 0.1
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
