"""Rows that a page sends to a service are tasks of the config that the page has served."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gym_ray.config.load import load_config
from gym_ray.registry import load_environment
from gym_ray.routing import Router
from gym_ray.task import check_row

ROOT = Path(__file__).parents[2]
SERVES = re.compile(r"gym-ray serve\s+(\S+\.yaml)")
#: Every page that does both, with how many rows.
PAGES = {"README.md": 1, "docs/client.md": 3, "docs/run.md": 17, "docs/trainers.md": 3}


def sent_by(page: str) -> Iterator[dict[str, Any]]:
    """Rows in a page's programs and commands, and those of the files that these read."""
    for program in re.findall(r"```python\n(.*?)```", page, re.S):
        for node in ast.walk(ast.parse(program)):
            match node:
                case ast.Assign(targets=[ast.Name(id="tasks")], value=ast.List() as rows):
                    yield from ast.literal_eval(rows)
                case ast.Call(func=ast.Name(id="open"), args=[ast.Constant(value=str(path))]):
                    yield from map(json.loads, (ROOT / path).read_text("utf-8").splitlines())
    for path in re.findall(r"^head -1 (\S+) \| curl ", page, re.M):
        yield json.loads((ROOT / path).read_text("utf-8").splitlines()[0])
    for text in re.findall(r'"task":\s*(\{.*\})\}\]', page):
        yield json.loads(text)


def test_every_page_that_serves_a_config_and_sends_rows_is_here() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in pages}

    found = {name: len(list(sent_by(text))) for name, text in texts.items() if SERVES.search(text)}

    assert {name: count for name, count in found.items() if count} == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_rows_of_a_page_are_tasks_of_what_it_serves(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    (path,) = set(SERVES.findall(text))
    config = load_config(ROOT / path)
    router = Router(
        config.environments,
        {
            name: load_environment(name, section, config.base_directory)
            for name, section in config.environments.items()
        },
    )

    for row in sent_by(text):
        check_row(row)
        assert router.route(row) in config.environments
    assert config.serve.port == 8000
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", text)) == {"8000"}
