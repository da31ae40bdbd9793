"""`gym-ray hub`: datasets to the Hugging Face Hub and from there."""

from __future__ import annotations

from typing import Annotated

import typer

from gym_ray.cli.arguments import Quiet

app = typer.Typer(
    name="hub", help="Push datasets to the Hugging Face Hub, and pull them.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

_RepoId = Annotated[str, typer.Argument(metavar="REPO_ID", help="Dataset: OWNER/NAME.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.command()
def push(
    folder: Annotated[
        str,
        typer.Argument(metavar="DIR", help="Output of collect, reverify, export or prepare."),
    ],
    repo_id: _RepoId,
    revision: Annotated[
        str, typer.Option("--revision", metavar="BRANCH", help="Created if it is not there.")
    ] = "main",
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is private; a public one refused.")
    ] = False,
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="For the card, e.g. apache-2.0."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Remove data of the repository that DIR does not have."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes and the card; send nothing.")
    ] = False,
    json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a dataset with a card, in one commit; only what is not there is sent.

    The token is read from the environment variable HF_TOKEN. Re-issuing the same command continues
    where it stopped.

    Example:

      gym-ray hub push runs/demo OWNER/demo-rollouts --private

      gym-ray hub push exports/demo-sft OWNER/demo-sft --dry-run
    """
    from gym_ray.hub.push import push as run
    from gym_ray.hub.push import render

    report = run(
        folder,
        repo_id,
        revision=revision,
        private=private,
        license=license,
        replace=replace,
        dry_run=dry_run,
        quiet=quiet,
    )
    typer.echo(report.to_json() if json else render(report))


@app.command()
def pull(
    repo_id: _RepoId,
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="New folder, or that of the same pull.")
    ],
    revision: Annotated[
        str, typer.Option("--revision", metavar="REVISION", help="Branch, tag or commit.")
    ] = "main",
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="Only files it matches; repeatable."),
    ] = None,
    jsonl: Annotated[
        bool,
        typer.Option("--jsonl", help="Write Parquet task files as JSONL, too, for prepare."),
    ] = False,
    json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a dataset, whole and checked; only what is missing is fetched.

    HF_TOKEN in the environment is needed for private and gated datasets only. Re-issuing the same
    command continues where it stopped.

    Example:

      gym-ray hub pull OWNER/demo-rollouts --output runs/pulled

      gym-ray hub pull OWNER/questions --output data/questions --include "data/train-*" --jsonl
    """
    from gym_ray.hub.pull import pull as run
    from gym_ray.hub.pull import render

    report = run(
        repo_id, output, revision=revision, include=include or [], jsonl=jsonl, quiet=quiet
    )
    typer.echo(report.to_json() if json else render(report))
