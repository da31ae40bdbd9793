r"""What an answer says of its value: `x = 7` states 7, and `\neq 7` does not.

Owned here: which answers state a relation where a value is asked for, and equations between numbers
that are false. Not owned here: equations and inequalities that are asked for, which `math-verify`
compares.
"""

from __future__ import annotations

import re
from typing import Any

from .comparison import decided

_NO_VALUE = re.compile(
    r"<=|>=|!=|/=|->|<|>|\\(?:neq|ne|not|leqslant|leq|le|geqslant|geq|ge|lt|gt|ll|gg|notin|ni|"
    r"to|gets|mapsto|longmapsto|rightarrow|longrightarrow|leftarrow|Leftarrow|leftrightarrow|"
    r"Leftrightarrow|iff|equiv|sim|simeq|propto|cong|subset|subseteq|supset|supseteq|perp|"
    r"parallel|prec|succ|mid|nmid|models|vdash)(?![a-zA-Z])|[≠≤≥→↦≡∼]"
)
_EQUALS = re.compile(r"=|\\(?:in|approx|doteq|coloneqq)(?![a-zA-Z])")
_SAME_AS = re.compile(r"^\s*(?:(?:=|\\approx(?![a-zA-Z])|\\doteq(?![a-zA-Z]))\s*)?")
_FOLLOWS = re.compile(r"\\(?:Rightarrow|Longrightarrow|implies)(?![a-zA-Z])|=>|⇒|⟹")
_LETTER = re.compile(r"(?<!\\)(?<![a-zA-Z\\])[a-zA-Z]|\\(?:theta|alpha|beta|lambda|angle|text)")
_NAME = re.compile(r"[a-zA-Z]")
_SET = re.compile(r"\\(?:cup|cap|infty|mathbb|emptyset|setminus|\{)|[\])]\s*$")


def stated(answer: str) -> str:
    r"""What is left of an answer after `equation ⇒` and after a mere `=` before it.

    >>> stated(r"2x = 14 \Rightarrow x = 7"), stated(r"8 \Rightarrow 7")
    ('x = 7', '8 \\Rightarrow 7')
    """
    parts = _FOLLOWS.split(answer)
    if len(parts) > 1 and all(_EQUALS.search(part) for part in parts[:-1]):
        answer = parts[-1]
    return _SAME_AS.sub("", answer, count=1)


def states_no_value(expected: str, answer: str) -> bool:
    r"""Whether the answer is a relation such as `\neq 7` where a value is expected.

    >>> states_no_value("7", r"\le 7"), states_no_value("7", "P(X > 3) = 7")
    (True, False)
    """
    at_top = _without_groups(answer)
    relation = _NO_VALUE.search(at_top) or _FOLLOWS.search(at_top)
    if relation is None or _NO_VALUE.search(expected) or _EQUALS.search(expected):
        return False
    # An interval may be stated as an inequality, though not as one of nothing: `< 7`.
    return not (_SET.search(expected) and _LETTER.search(at_top))


def named_value(answer: str) -> str | None:
    r"""What stands after the only `=` and a name before it; None when there is no such.

    >>> named_value("P(X > 3) = 7"), named_value("8 = 7")
    ('7', None)
    """
    name, equals, value = answer.rpartition("=")
    if _without_groups(answer).count("=") != 1 or "=" in name or not _NAME.search(name):
        return None
    return value.strip() if equals else None


def is_false_equation(value: Any) -> bool:
    """Whether numbers that a read answer calls equal are not: `8 = 7`, `x = 3 + 5 = 7`."""
    import sympy
    from latex2sympy2_extended.logic import And

    relations = list(value._unsorted_args) if isinstance(value, And) else [value]
    if not all(isinstance(relation, sympy.Eq) for relation in relations):
        return False
    last = relations[-1].rhs
    sides = [relations[0].lhs, *(relation.rhs for relation in relations[:-1])]
    return any(
        isinstance(side, sympy.Expr) and not side.free_symbols and decided(side, last) is False
        for side in sides
    )


def is_relation(value: Any) -> bool:
    """Whether a read text is an equation or an inequality, or several."""
    import sympy
    from latex2sympy2_extended.logic import And

    return isinstance(value, And | sympy.core.relational.Relational)


def is_named(value: Any) -> bool:
    """Whether a read text gives a value to a name, as `x = 7` does and `2x = 14` does not."""
    from math_verify.grader import is_assignment_relation

    return bool(is_assignment_relation(value))


def value_of(value: Any) -> Any:
    """The last side of a read equation; anything else as it is."""
    import sympy
    from latex2sympy2_extended.logic import And

    last = value._unsorted_args[-1] if isinstance(value, And) else value
    return last.rhs if isinstance(last, sympy.Eq) else value


def _without_groups(text: str) -> str:
    """`text` without what stands in braces, parentheses and brackets."""
    kept, depth = [], 0
    for character in re.sub(r"\\[{}]", " ", text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        elif not depth:
            kept.append(character)
    return "".join(kept)
