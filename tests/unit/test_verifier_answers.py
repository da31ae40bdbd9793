"""Finding the final answer in a reply."""

import time

import pytest

from gym_ray.verifiers.answers import last_boxed, last_line, last_tagged


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{4}", "4"),
        (r"\boxed{3}, no: \boxed{4}.", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{7}}", r"\boxed{7}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{4} and \boxed{5 was cut", "4"),
        (r"a stray { before \boxed{4} and } } after", "4"),
        (r"\boxed{}", ""),
        (r"\boxed{π}", "π"),
        (r"\boxed{4", None),
        (r"\boxed 4", None),
        ("4", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_the_answer(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>4</answer>", "4"),
        ("<answer>3</answer> wait <answer>\n4 </answer> done", "4"),
        ("<answer>4", "4"),
        ("<answer></answer>", ""),
        ("answer: 4", None),
        ("", None),
    ],
)
def test_the_last_tag_is_the_answer(text: str, answer: str | None) -> None:
    assert last_tagged(text, "answer") == answer


@pytest.mark.parametrize(
    ("text", "line"), [("a\nb\n\n", "b"), (" one ", "one"), ("", None), (" \n ", None)]
)
def test_the_last_line_is_the_last_that_is_not_blank(text: str, line: str | None) -> None:
    assert last_line(text) == line


@pytest.mark.parametrize("bomb", [r"\boxed{" * 100_000, "{" * 500_000, "}" * 500_000])
def test_unbalanced_braces_are_searched_in_linear_time(bomb: str) -> None:
    started = time.process_time()
    assert last_boxed(bomb) is None
    assert time.process_time() - started < 2.0
