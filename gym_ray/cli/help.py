"""Help as it is printed, and what wrong usage is told: examples that can be pasted, every command's
whole first sentence, and the key of the config that was written as an option.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.core

_INDENT = "  "


class CommandHelp(typer.core.TyperCommand):
    """A command whose examples keep their lines, where click would fill them like prose."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        formatter.write_paragraph()
        with formatter.indentation():
            for number, paragraph in enumerate(_paragraphs(self.help or "")):
                if number:
                    formatter.write_paragraph()
                if not paragraph.startswith(_INDENT):
                    formatter.write_text(paragraph)
                    continue
                for line in paragraph.splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # Click is inside of typer, which does not name this one.
            _hint_at_assignments(error)
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = super().collect_usage_pieces(ctx)
        return [piece.replace("{", "").replace("}", "") for piece in pieces]


class CommandGroup(typer.core.TyperGroup):
    """A group that lists its commands with whole sentences, by the work they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        commands = [(name, one) for name, one in found if one is not None and not one.hidden]
        works: dict[str, list[tuple[str, str]]] = {}
        width = max((len(name) for name, _ in commands), default=0)
        for name, command in commands:
            work = getattr(command, "rich_help_panel", None)
            row = f"{name:{width}}", command.get_short_help_str(limit=1000)
            works.setdefault(work if isinstance(work, str) else "Commands", []).append(row)
        for work, rows in works.items():
            with formatter.section(work):
                formatter.write_dl(rows)


def dressed(app: typer.Typer) -> typer.Typer:
    """The app, with the help of this module in all of its commands and groups."""
    app.info.cls = CommandGroup
    for command in app.registered_commands:
        command.cls = CommandHelp
    for group in app.registered_groups:
        assert group.typer_instance is not None
        dressed(group.typer_instance)
    return app


def _hint_at_assignments(error: Any) -> None:
    """Keys of the config are no options of commands, as they are in other tools."""
    option = getattr(error, "option_name", None)
    if option is None:
        return
    from gym_ray.config.load import keys_named

    for key in keys_named(option.lstrip("-").replace("-", "_")):
        error.message += f". It is a key of the config: write {key}=VALUE"


def _paragraphs(text: str) -> Iterator[str]:
    """Parts between empty lines."""
    yield from (part.strip("\n") for part in text.split("\n\n") if part.strip())
