"""`gym-ray check-template`: whether rollouts of a model can be continued exactly."""

from __future__ import annotations

from typing import Annotated

import typer

from gym_ray.errors import GymRayError


def check_template(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Checkpoint directory, bundled:NAME, or Hugging Face name."
        ),
    ],
    renderer: Annotated[
        str,
        typer.Option(
            "--renderer",
            metavar="FAMILY",
            help="Renderer to check; as policy.renderer in a config.",
        ),
    ] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say whether turns of a model continue token for token.

    Multi-turn rollouts need that. Compares, on CPU and without weights, the renderer's continuation
    of probe conversations with a full render, and its full render with the model's own chat
    template; shows the first differing tokens. Also probes that text which spells control tokens
    stays text. Exit code 0 if exact continuation holds, 1 if not, 2 if there is no such model or
    renderer.

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
    if report.forgeable:
        raise GymRayError(
            f"with renderer {report.family}, text of a message becomes control tokens of {model}, "
            "so that a tool's result or a user can speak as somebody else; use another renderer"
        )
    if not report.exact:
        raise GymRayError(
            f"{model} with renderer {report.family} cannot be continued exactly; if it is a "
            "fine-tune of a known family, name that with --renderer"
        )
