"""What is read without its neighbors: docstrings, help texts and names say what they mean."""

import ast
import collections
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from gym_ray.cli.main import app

ROOT = Path(__file__).parents[2]
FOLDERS = ("gym_ray", "environments")
#: A reader of a help text holds no more than this.
SENTENCE_WORDS = 30
#: What a sentence that leans on the name above it, or on our own slang, looks like.
MARKS = {
    "begins with 'Of'": re.compile(r"^Of\b"),
    "says 'told' of token IDs": re.compile(
        r"\b(un)?(told|tells?)\b[^.;:]{0,25}\btokens?\b|\btokens?\b[^.;:]{0,12}\b(un)?told\b|untold",
        re.IGNORECASE,
    ),
    "is in British spelling": re.compile(
        r"\b(licence|behaviour|colour|honour|neighbour|favour|centre)", re.IGNORECASE
    ),
}


def sources() -> list[Path]:
    # `gym_ray/environments` is a link, which is not followed.
    return sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Every docstring of a file, those under fields included, by where it stands."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    yield f"{path.relative_to(ROOT)}:{statement.lineno}", text


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for key, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{name} {key}")


def help_texts() -> dict[str, str]:
    """The text of every command and every option, by where it stands."""
    texts = {}
    for name, command in commands(typer.main.get_command(app), "gym-ray"):
        texts[name] = command.help or ""
        for parameter in command.params:
            texts[f"{name}: {parameter.name}"] = getattr(parameter, "help", None) or ""
    return texts


HELP = help_texts()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def marks_of(text: str) -> list[str]:
    flat = " ".join(text.split())
    return [mark for mark, pattern in MARKS.items() if pattern.search(flat)]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_stand_alone(path: Path) -> None:
    found = {where: marks for where, text in docstrings(path) if (marks := marks_of(text))}
    assert not found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_say_what_they_mean(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), start=1)
    cells = ((n, cell.strip()) for n, line in lines for cell in line.split("|"))
    found = {number: marks for number, cell in cells if (marks := marks_of(cell))}
    assert not found


@pytest.mark.parametrize("where", HELP)
def test_help_texts_are_sentences_of_a_readable_length(where: str) -> None:
    text = HELP[where]
    assert text, "no help"
    assert not marks_of(text)
    prose = re.sub(r"Example:.*", "", text, flags=re.DOTALL)
    for sentence in re.split(r"(?<=[.:;])\s+|\n\s*\n", prose):
        assert len(sentence.split()) <= SENTENCE_WORDS, sentence


def test_no_public_class_name_exists_twice() -> None:
    homes = collections.defaultdict(list)
    for path in (path for path in sources() if path.is_relative_to(ROOT / "gym_ray")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(ROOT)))
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}
