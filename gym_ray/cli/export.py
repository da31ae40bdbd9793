"""`gym-ray export`: training datasets made of stored rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gym_ray.cli.arguments import Quiet, Rollouts

if TYPE_CHECKING:
    from gym_ray.export.export import Format, Kind
    from gym_ray.export.recipe import Recipe

app = typer.Typer(
    name="export", help="Make training datasets of stored rollouts.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


_Format = Literal["parquet", "jsonl", "both"]
_FailedGroups = Literal["drop", "keep-completed"]
_Reasoning = Literal["keep", "inline", "drop"]
_Pairing = Literal["best-worst", "all-above-margin", "length-matched"]
_Shape = Literal["messages", "nemo-rl", "text"]

_PRESET = "By default as the run's objective says."

_Output = Annotated[str, typer.Option("--output", metavar="DIR", help="New folder.")]
_Files = Annotated[_Format, typer.Option("--format", help="Files to write.")]
_License = Annotated[
    str | None,
    typer.Option(
        "--license",
        metavar="ID",
        help="License on the dataset card; by default what the environments' datasets declare.",
    ),
]
_Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Parts converted at once; more than one by Ray. By default as many as pay.",
    ),
]
_PackLength = Annotated[
    int | None,
    typer.Option(
        "--pack-length", min=1, metavar="TOKENS",
        help="Length of a packed sequence in the statistics; by default that of the longest row.",
    ),
]  # fmt: skip
_MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Leave out longer rollouts (prompt and answer)."),
]
_ReasoningOption = Annotated[
    _Reasoning,
    typer.Option(
        "--reasoning",
        help="Where reasoning goes: reasoning_content, inline as <think>…</think>, or nowhere.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.command()
def rl(
    rollouts: Rollouts,
    output: _Output,
    failed_groups: Annotated[
        _FailedGroups,
        typer.Option(
            "--failed-groups", help="Groups some of whose rollouts failed: drop them whole, or not."
        ),
    ] = "drop",
    drop_zero_variance: Annotated[
        bool | None,
        typer.Option(
            "--drop-zero-variance/--keep-zero-variance",
            help=f"Leave out groups whose rewards are all equal. {_PRESET}",
        ),
    ] = None,
    pack_length: _PackLength = None,
    format: _Files = "parquet",
    license: _License = None,
    workers: _Workers = None,
    json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Token sequences with loss mask, logprobs, rewards and advantages; one row per branch.

    Advantages are relative to the rollouts of the same task: advantage_grpo is standardized,
    advantage_rloo leaves one out.

    Example:

      gym-ray export rl runs/demo --output exports/demo-rl --drop-zero-variance
    """
    from gym_ray.export.rl import RlRecipe

    given = {"failed_groups": failed_groups, "drop_zero_variance": drop_zero_variance}
    _export(
        rollouts, output, "rl", RlRecipe, given, json=json, quiet=quiet, format=format,
        license=license, workers=workers, pack_length=pack_length,
    )  # fmt: skip


@app.command()
def sft(
    rollouts: Rollouts,
    output: _Output,
    min_reward: Annotated[
        float | None,
        typer.Option("--min-reward", help=f"Leave out rollouts with less. {_PRESET}"),
    ] = None,
    include_truncated: Annotated[
        bool | None,
        typer.Option("--include-truncated", help="Keep rollouts that were cut short."),
    ] = None,
    max_tokens: _MaxTokens = None,
    best_of: Annotated[
        int | None,
        typer.Option("--best-of", min=1, metavar="N", help="The best N of each task at most."),
    ] = None,
    dedup: Annotated[
        bool, typer.Option("--dedup/--no-dedup", help="Keep equal conversations once.")
    ] = True,
    reasoning: _ReasoningOption = "keep",
    pack_length: _PackLength = None,
    format: _Files = "both",
    license: _License = None,
    workers: _Workers = None,
    json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Conversations for supervised fine-tuning: `messages`, and `tools` where there are any.

    Example:

      gym-ray export sft runs/demo --output exports/demo-sft --min-reward 0.8 --best-of 1
    """
    from gym_ray.export.sft import SftRecipe

    given = {
        "include_truncated": include_truncated,
        "min_reward": min_reward,
        "max_tokens": max_tokens,
        "reasoning": reasoning,
        "dedup": dedup,
        "best_of": best_of,
    }
    _export(
        rollouts, output, "sft", SftRecipe, given, json=json, quiet=quiet, format=format,
        license=license, workers=workers, pack_length=pack_length,
    )  # fmt: skip


@app.command()
def dpo(
    rollouts: Rollouts,
    output: _Output,
    pairing: Annotated[
        _Pairing | None,
        typer.Option(
            "--pairing", help=f"Which rollouts of a task make pairs; best-worst. {_PRESET}"
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin", min=0.0, help=f"By how much the chosen reward is higher; 0.1. {_PRESET}"
        ),
    ] = None,
    shape: Annotated[
        _Shape,
        typer.Option(
            "--shape",
            help="prompt, chosen, rejected as messages (TRL); context and ranked completions "
            "(NeMo RL); prompt, chosen, rejected as plain text (NeMo RL's binary preferences).",
        ),
    ] = "messages",
    max_tokens: _MaxTokens = None,
    reasoning: _ReasoningOption = "keep",
    pack_length: _PackLength = None,
    format: _Files = "both",
    license: _License = None,
    workers: _Workers = None,
    json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Preference pairs of rollouts of the same task.

    Example:

      gym-ray export dpo runs/demo --output exports/demo-dpo --pairing length-matched --margin 0.5
    """
    from gym_ray.export.dpo import DpoRecipe

    given = {
        "pairing": pairing,
        "margin": margin,
        "shape": shape,
        "max_tokens": max_tokens,
        "reasoning": reasoning,
    }
    _export(
        rollouts, output, "dpo", DpoRecipe, given, json=json, quiet=quiet, format=format,
        license=license, workers=workers, pack_length=pack_length,
    )  # fmt: skip


@app.command("nemo-gym")
def nemo_gym(
    rollouts: Rollouts,
    output: _Output,
    license: _License = None,
    workers: _Workers = None,
    json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Rollouts, failures and tasks as JSONL in NeMo Gym's row shapes.

    Example:

      gym-ray export nemo-gym runs/demo --output exports/demo-nemo-gym
    """
    from gym_ray.export.nemo_gym_rows import NemoGymRecipe

    _export(
        rollouts, output, "nemo-gym", NemoGymRecipe, {}, json=json, quiet=quiet, format="jsonl",
        license=license, workers=workers, pack_length=None,
    )  # fmt: skip


@app.command()
def atif(
    rollouts: Rollouts,
    output: _Output,
    one_file_each: Annotated[
        bool,
        typer.Option(
            "--one-file-each",
            help="A JSON file a trajectory, as Harbor's tools open them, instead of a line each.",
        ),
    ] = False,
    license: _License = None,
    workers: _Workers = None,
    json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Trajectories in the Agent Trajectory Interchange Format (ATIF v1.7) of Harbor.

    `gym-ray import atif` makes the same rollouts of them again.

    Example:

      gym-ray export atif runs/demo --output exports/demo-atif
    """
    from gym_ray.atif.trajectories import AtifRecipe

    _export(
        rollouts, output, "atif", AtifRecipe, {"one_file_each": one_file_each}, json=json,
        quiet=quiet, format="jsonl", license=license, workers=workers, pack_length=None,
    )  # fmt: skip


def _export(
    rollouts: str,
    output: str,
    kind: Kind,
    recipe: Callable[..., Recipe],
    given: Mapping[str, Any],
    *,
    json: bool,
    format: Format,
    **options: Any,
) -> None:
    """Export; of the recipe's fields those given come first, then those of the run's objective."""
    from gym_ray.export.card import preset_of, render
    from gym_ray.export.export import export
    from gym_ray.store.stored_run import StoredRun

    run = StoredRun.open(rollouts)
    fields = {name: value for name, value in given.items() if value is not None}
    preset = preset_of(run, kind)
    preset = {name: value for name, value in preset.items() if name not in fields}
    made = recipe(**preset, **fields)
    report = export(run, output, kind, made, format=format, preset=preset, **options)
    typer.echo(report.to_json() if json else render(report))
