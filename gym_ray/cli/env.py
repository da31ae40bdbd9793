"""`gym-ray env`: list, create, check and try environments."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from gym_ray.cli.arguments import Overrides
from gym_ray.errors import ConfigError, GymRayError

Environment = Annotated[
    str | None,
    typer.Option("--environment", metavar="NAME", help="Which one, if it has several."),
]

app = typer.Typer(
    name="env", help="List, create, check and try environments.", no_args_is_help=True,
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
    template: Annotated[
        str,
        typer.Option(
            "--template",
            metavar="single|tools|game",
            help="One reply, tools with a state, or a game with turns.",
            show_default=True,
        ),
    ] = "single",
) -> None:
    """Create an environment that runs as it is, to be changed into yours.

    Example:

      gym-ray env new demo && gym-ray env check demo && gym-ray collect demo/config.yaml

      gym-ray env new shop --template tools && gym-ray env try shop
    """
    from gym_ray.authoring import create_environment

    files = create_environment(name, directory, template)
    for file in files:
        typer.echo(f"wrote {file}")
    folder = files[0].parent
    typer.echo(f"next: gym-ray env check {folder} && gym-ray env try {folder}")


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder with config.yaml, or a YAML config.")
    ],
    environment: Environment = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say whether an environment does what a run relies on; no model and no Ray needed.

    Loads it, plays gold, empty and odd replies to its example rows through the ordinary runner,
    again, and many at once: rewards, determinism, deadlines, pickling, concurrency. Shows one of
    the rollouts. Exit code 0 if all is well, 1 if not.

    Example:

      gym-ray env check environments/math
    """
    import dataclasses
    import json as json_module

    from gym_ray.authoring import check_environment
    from gym_ray.authoring.conversation import plain_line

    report = check_environment(path, environment)
    if json:
        typer.echo(json_module.dumps(dataclasses.asdict(report), indent=2))
    else:
        for finding in report.findings:
            detail = plain_line(finding.detail)
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {detail}")
        if report.example:
            typer.echo(f"\n{report.example}")
    if not report.ok:
        failed = ", ".join(finding.check for finding in report.findings if not finding.ok)
        raise GymRayError(f"environment {report.environment} is not ready: {failed}")


class Actor(enum.StrEnum):
    """Who acts in `gym-ray env try`."""

    ME = "me"
    SCRIPTED = "scripted"
    POLICY = "policy"


@app.command("try")
def try_(
    path: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML config, or folder with config.yaml.")
    ],
    overrides: Overrides = None,
    row: Annotated[int, typer.Option("--row", min=1, help="Which task row, from 1.")] = 1,
    who: Annotated[
        Actor | None,
        typer.Option("--as", help="The policy: you, a script, or the config's own.  [default: me]"),
    ] = None,
    reply: Annotated[
        list[str] | None,
        typer.Option(
            "--reply",
            metavar="TEXT",
            help="What the scripted policy says, once for each turn; the gold answer if none.",
        ),
    ] = None,
    environment: Environment = None,
) -> None:
    """Play one rollout in the terminal, as the policy or with a scripted one; Ray is not needed.

    Shows the prompt and the tools, what is said as it goes, and the verdict with its parts. Your
    turn is a line; /call NAME {"argument": 1} calls a tool, /quit, Ctrl-D and Ctrl-C end. Lines
    may be piped in. Exit code 0 if there is a verdict, else 1, and 130 after Ctrl-C.

    Example:

      gym-ray env try environments/session_counter/config.yaml --row 2

      gym-ray env try environments/workplace/config.yaml --as scripted
    """
    from gym_ray.authoring import Sampled, Scripted, Subject, Typed, try_environment
    from gym_ray.cli.terminal import is_shown, read_line, say

    subject = Subject.find(path, overrides or [], environment)
    who = who or (Actor.SCRIPTED if reply else Actor.ME)
    if reply and who != Actor.SCRIPTED:
        raise ConfigError(f"--reply is what the scripted policy says; leave out --as {who}")
    policy: Typed | Scripted | Sampled
    if who == Actor.ME:
        policy = Typed(read_line, echo=not is_shown())
    elif who == Actor.SCRIPTED:
        policy = Scripted(reply or ())
    else:
        from gym_ray.serving.engines import build_engine, check_engine, working_directory_in_path
        from gym_ray.serving.policy_renderer import load_policy_renderer

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # It would talk in between.
        check_engine(subject.config.policy, section="policy", here=True)
        with working_directory_in_path():
            engine = build_engine(subject.config)
        policy = Sampled(engine, load_policy_renderer(subject.config))
    try_environment(subject, row, policy, say)
