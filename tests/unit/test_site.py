"""The documentation site: it builds without a warning, and a stranger finds the way in it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stored import stored_run, sum_rollout

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))["PAGES"]


class Links(HTMLParser):
    """What a page links to, and what a browser fetches with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag == "a" and found.get("href"):
            self.targets.append(str(found["href"]))
        elif tag in ("script", "img", "source", "iframe") and found.get("src"):
            self.fetched.append(str(found["src"]))
        elif tag == "link" and found.get("href") and found.get("rel") != "canonical":
            self.fetched.append(str(found["href"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built: a page outside of `nav`, a dead link or a dead anchor ends the build."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


def in_nav() -> list[str]:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    return list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))


def links_of(page: Path) -> list[str]:
    """Targets in the repository that a Markdown file links to."""
    return re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", page.read_text())


def test_every_page_is_in_the_navigation_once() -> None:
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    pages += ["contributing.md", "changelog.md"]
    for readme in (ROOT / "environments").glob("*/README.md"):
        pages.append(f"environments/{readme.parent.name}.md")

    assert sorted(in_nav()) == sorted(pages)


def test_every_page_of_the_navigation_is_built(site: Path) -> None:
    for page in in_nav():
        folder = "" if page == "index.md" else page.removesuffix(".md")
        assert (site / folder / "index.html").exists(), page


def test_sections_are_the_eight(site: Path) -> None:
    sections = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    assert [name for section in sections for name in section] == [
        "Start", "Collect", "Environments", "Serve", "Train", "Operate", "Reference", "Design",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["environments/", "run/", "train/"])
def test_the_front_page_leads_to_writing_serving_and_training(site: Path, path: str) -> None:
    text = (site / "index.html").read_text()
    article = text[text.index("<article") : text.index("</article>")]

    assert path in [target.partition("#")[0] for target in Links(article).targets]


def test_a_reader_fetches_nothing_from_elsewhere(site: Path) -> None:
    elsewhere = {
        fetched
        for page in site.rglob("*.html")
        for fetched in Links(page.read_text()).fetched
        if fetched.startswith(("http:", "https:", "//"))
    }

    assert elsewhere == set()


def test_the_python_reference_shows_every_public_name(site: Path) -> None:
    import gym_ray

    text = (site / "python" / "index.html").read_text()

    assert [name for name in gym_ray.__all__ if f'id="gym_ray.{name}"' not in text] == []


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run scripts/write_docs.py"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_repositorys_own_pages_lead_somewhere(name: str) -> None:
    assert [target for target in links_of(ROOT / name) if not (ROOT / target).exists()] == []


def test_commands_of_every_page_are_commands() -> None:
    there = set(re.findall(r"^## gym-ray (.+)$", PAGES["commands.md"](), re.M))
    groups = {name.split()[0] for name in there if " " in name}

    wrong = []
    for page in [*DOCS.glob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("environments/*/README.md")]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            for words in re.findall(r"^gym-ray (.+)$", block, re.M):
                first, *others = words.split()
                name = f"{first} {others[0]}" if first in groups else first
                if name not in there:
                    wrong.append(f"{page.name}: gym-ray {name}")
    assert wrong == []


def test_the_quickstarts_program_reads_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored_run(tmp_path / "runs" / "demo", [sum_rollout(task, 0, reply="2") for task in range(3)])
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "quickstart.md").read_text(), re.S)

    monkeypatch.chdir(tmp_path)
    exec(program, {"__name__": "page"})

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["completed"] * 3


def test_the_architecture_page_has_the_rooms_there_are() -> None:
    rooms = {
        path.name
        for path in (ROOT / "gym_ray").iterdir()
        if path.is_dir() and (path / "__init__.py").exists()
    }
    (block,) = re.findall(r"```text\ngym_ray/\n(.*?)```", _architecture(), re.S)

    assert set(re.findall(r"(\w+)/(?=\s)", block)) == rooms | {"environments"}


def test_the_architecture_page_has_the_layers_that_are_checked() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (
        one for one in config["tool"]["importlinter"]["contracts"] if one["type"] == "layers"
    )
    (block,) = re.findall(r"```text\n(cli\n.*?)```", _architecture(), re.S)

    layers = [layer.replace("gym_ray.", "").replace(" : ", " · ") for layer in contract["layers"]]
    assert block.splitlines() == layers


def _architecture() -> str:
    return (DOCS / "architecture.md").read_text()
