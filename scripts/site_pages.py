"""Hook of `mkdocs.yml`: pages of the site that live outside docs/, and the links to them.

CONTRIBUTING.md, CHANGELOG.md and the READMEs of the built-in environments stay where a reader of
the repository looks for them. Their links, and links to them, are written for the repository and
rewritten here for the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

#: Target of a Markdown link, without a scheme; its anchor apart.
_LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)")


def outside_pages() -> dict[str, str]:
    """Path in the site, by path in the repository."""
    pages = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    for readme in sorted((ROOT / "environments").glob("*/README.md")):
        pages[readme.relative_to(ROOT).as_posix()] = f"environments/{readme.parent.name}.md"
    return pages


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for source, page in outside_pages().items():
        text = (ROOT / source).read_text()
        files.append(File.generated(config, page, content=_relinked(text, source, page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of pages in docs/."""
    path = page.file.src_uri
    if path in outside_pages().values():
        return markdown
    return _relinked(markdown, f"docs/{path}", path)


def _relinked(text: str, source: str, page: str) -> str:
    """Text of the repository's file `source`, its links turned into those of the site's `page`."""
    outside = outside_pages()

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        in_site = outside.get(target, target.removeprefix("docs/"))
        if in_site == target:
            return found[0]  # Neither kind of page: for the strict build to find.
        return f"]({posixpath.relpath(in_site, posixpath.dirname(page) or '.')}{found[2] or ''})"

    return _LINK.sub(link, text)
