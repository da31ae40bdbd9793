"""Finding the final answer in what a model wrote. Linear in the text, whatever it holds."""

from __future__ import annotations

import re

# Escaped characters are matched first, so that `\{` and `\}` of set notation do not count.
_BRACES = re.compile(
    r"""\\(?:boxed|fbox)(?:
      \s*(?P<brace>\{)
    # A number that the formula goes on with is boxed in part only: nothing is stated.
    | \s{0,3}(?P<number>(?>[-+−]?\d(?:[\d,]*\d)?(?:\.\d+)?(?:\\?%)?))
      (?![A-Za-z_({\[]|\s{0,3}(?:[\^/*+=<>:!×·÷]|[-−]\s?[\d\\]|\\(?!text|quad|qquad)[A-Za-z]))
    # A letter or a command is boxed where a formula ends with it; elsewhere it may be prose.
    | \s{0,3}(?P<name>(?<=\s)[A-Za-z] | \\(?:pi|infty|emptyset|text\s*\{[^{}]*\}
        | [dtc]?frac\s*(?:\d\d|\{[^{}]*\}\s*\{[^{}]*\}) | sqrt\s*(?:\d|\{[^{}]*\})))
      (?=[.,;]?\s*(?:\$|\\[)\]]|\Z))
    ) | \\. | [{}]""",
    re.DOTALL | re.VERBOSE,
)


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}`, outermost when nested; None without one. A box
    without braces holds the number after it, or the last symbol of a formula.

    >>> last_boxed(r"so \boxed{\frac{1}{2}}, and \boxed{3 was cut")
    '\\frac{1}{2}'
    >>> last_boxed(r"$x = \boxed 7$"), last_boxed(r"I put it in \boxed and so on")
    ('7', None)
    """
    found: str | None = None
    opened: list[int | None] = []  # where each open box's content starts; None: a plain brace
    boxes = 0  # how many of these are boxes
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            opened.append(None)
        elif token == "}":
            start = opened.pop() if opened else None
            if start is not None:
                boxes -= 1
                found = text[start : match.start()].strip()
        elif match["number"] or match["name"]:
            if not boxes:  # else the box around it is the answer
                found = match["number"] or match["name"]
        elif match["brace"]:
            boxes += 1
            opened.append(match.end())
    return found


def last_tagged(text: str, tag: str) -> str | None:
    """What stands after the last `<tag>`, up to `</tag>` or the end; None without the tag.

    >>> last_tagged("<answer>3</answer> no, <answer> 4 </answer>.", "answer")
    '4'
    """
    _, opening, rest = text.rpartition(f"<{tag}>")
    return rest.partition(f"</{tag}>")[0].strip() if opening else None


def last_line(text: str) -> str | None:
    """The last line that is not blank; None when all are."""
    stripped = text.strip()
    return stripped.splitlines()[-1].strip() if stripped else None


#: What models write on both sides of an answer that is not part of it.
_PAIRS = [(mark, mark) for mark in ("**", "__", "$$", "*", "_", "`", '"', "'", "$")]
_PAIRS += [("“", "”"), ("‘", "’"), ("\\(", "\\)"), ("\\[", "\\]")]
#: How many may stand around each other; a reply of nothing else must not cost quadratic time.
_MOST_WRAPPINGS = 10
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf)\s*\{")


def last_labelled(text: str, label: str) -> str | None:
    r"""What stands after the last `label` and its colon, on that line or else on the next one that
    is not blank; None without the label. Markup around it is left out.

    Args:
        text: the reply.
        label: a regular expression, matched in either case, that begins no word's middle.

    >>> last_labelled("**Answer:** B\n", "answer"), last_labelled("**Answer: B**", "answer")
    ('B', 'B')
    """
    found = None
    pattern = (
        rf"(?<![\w*])(?P<opened>[*_]*+)(?:{label})(?P<closed>[*_]*)[ \t]*[:：](?P<after>[*_]*)"
    )
    for match in re.finditer(pattern, text, re.IGNORECASE):
        found = match
    if found is None:
        return None
    lines = (line.strip() for line in text[found.end() :].splitlines())
    answer = next((line for line in lines if line), "")
    if not (found["closed"] or found["after"]):
        answer = answer.removesuffix(found["opened"])
    return unwrapped(answer)


#: What may stand before a fence: blanks, and the mark of a list item. All of it is indentation.
_ITEM = r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?"
_OPENING = re.compile(rf"({_ITEM})(`{{3,}}|~{{3,}})")
_ITEM_START = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+(?=\S)")
#: Blanks before a fence beyond those of its list item; more of them make it content.
_MOST_BLANKS = 3


def last_fenced(text: str) -> str | None:
    """Content of the last fenced code block (three backticks or tildes at a line's start, or in a
    list item), up to the end when it is never closed; None without one. Its lines lose the
    indentation of their fence."""
    found: str | None = None
    lines = _lines(text)
    start: int | None = None
    fence, indented, of_item = "", 0, 0
    for number, line in enumerate(lines):
        if start is None:
            item, opening = _ITEM_START.match(line), _OPENING.match(line)
            of_item = max(of_item, item.end()) if item else of_item
            if opening and len(opening[1]) <= of_item + _MOST_BLANKS:
                indented, fence, start = len(opening[1]), opening[2], number + 1
            continue
        closing = line.strip()
        is_near = len(line) - len(line.lstrip()) <= indented + _MOST_BLANKS
        if is_near and closing.startswith(fence) and not closing.strip(fence[0]):
            found, start = _without_indentation(lines[start:number], indented), None
    return found if start is None else _without_indentation(lines[start:], indented)


def _lines(text: str) -> list[str]:
    """The lines, each with its end. Only a line feed ends one: others may stand in a string."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _without_indentation(lines: list[str], columns: int) -> str:
    """The lines, each without as many blanks at its start, or without all of them."""
    if not columns:
        return "".join(lines)
    return "".join(line[min(columns, len(line) - len(line.lstrip(" \t"))) :] for line in lines)


def unwrapped(answer: str) -> str:
    r"""`answer` without the quotes, emphasis, dollar signs and `\text{...}` around all of it.

    >>> unwrapped(r"**\text{Paris}**"), unwrapped("$5"), unwrapped("A*")
    ('Paris', '$5', 'A*')
    """
    for _ in range(_MOST_WRAPPINGS):
        before, answer = answer, answer.strip()
        for opening, closing in _PAIRS:
            inner = answer[len(opening) : -len(closing)]
            if inner and answer == opening + inner + closing and opening not in inner:
                answer = inner
        command = _TEXT_COMMAND.match(answer)
        if command and _closes_at_end(answer, command.end()):
            answer = answer[command.end() : -1]
        if answer == before:
            break
    return answer


def _closes_at_end(text: str, start: int) -> bool:
    """Whether the brace open before `start` is closed by the last character."""
    depth = 1
    for match in _BRACES.finditer(text, start):
        token = match.group()
        if token == "}":
            depth -= 1
        elif token == "{" or match["brace"]:
            depth += 1
        if depth == 0:
            return match.end() == len(text)
    return False


_FENCE = re.compile(
    rf"^(?P<before>{_ITEM})(?P<marks>`{{3,}}|~{{3,}})[ \t]*(?P<language>[^\s`]*)[^\n`]*$",
    re.MULTILINE,
)


def last_code_block(
    text: str, languages: tuple[str, ...] = ("python", "py", "python3")
) -> str | None:
    r"""Content of the last complete fenced block in one of `languages`, else of the last one
    that names no language; None without either. A block that was cut short is none. Lines of a
    block in a list item lose the indentation of their fence.

    >>> last_code_block("```python\nx = 1\n```\nor\n```\ny = 2\n```")
    'x = 1\n'
    """
    named: str | None = None
    nameless: str | None = None
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
            continue
        marks, closing = opening["marks"], fence["marks"]
        if (
            fence["language"]
            or fence["before"].strip()
            or closing[0] != marks[0]
            or len(closing) < len(marks)
            or len(fence["before"]) > len(opening["before"]) + _MOST_BLANKS
        ):
            continue
        lines = _lines(text[opening.end() + 1 : fence.start()])
        content = _without_indentation(lines, len(opening["before"]))
        if opening["language"].lower() in languages:
            named = content
        elif not opening["language"]:
            nameless = content
        opening = None
    return named if named is not None else nameless
