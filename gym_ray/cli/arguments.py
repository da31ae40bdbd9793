"""Arguments that several commands have, with the same help."""

from __future__ import annotations

from typing import Annotated

import typer

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML config file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Dotted assignments over the config."),
]
Rollouts = Annotated[
    str, typer.Argument(metavar="ROLLOUTS", help="Run directory, or folder of shards.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")]
TrustRun = Annotated[
    bool,
    typer.Option(
        "--trust-run", help="Run the code that a run from elsewhere names in its run.yaml."
    ),
]
