"""Finding the final answer in a reply."""

import time

import pytest

from gym_ray.verifiers.answers import (
    last_boxed,
    last_code_block,
    last_fenced,
    last_labelled,
    last_line,
    last_tagged,
    unwrapped,
)


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
        (r"$x = \boxed 4$", "4"),
        (r"\boxed4", "4"),
        (r"\boxed -1,234.5.", "-1,234.5"),
        (r"it is \boxed 50\%.", r"50\%"),
        (r"$\boxed\frac12$", r"\frac12"),
        (r"\(\boxed \pi\)", r"\pi"),
        (r"so $\boxed B$.", "B"),
        (r"\boxed 4 or \boxed{5}", "5"),
        (r"\boxed{4} or \boxed 5", "5"),
        (r"\boxed{x = \boxed 4}", r"x = \boxed 4"),
        (r"I put it in \boxed and a number", None),
        (r"in \boxed a number", None),
        ("4", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_the_answer(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    "rest", ["x", "/2", "^2", "^{6}", "_7", "+4", " - 3", r"\cdot 10^3", r" \pi", ":4", "(5)", "=4"]
)
@pytest.mark.parametrize("number", ["7", "10", "-1,234", "0.5", r"50\%"])
def test_a_box_without_braces_holds_no_part_of_a_formula(number: str, rest: str) -> None:
    assert last_boxed(rf"so $\boxed {number}{rest}$") is None


@pytest.mark.parametrize(
    "rest", ["", ".", "$", r"\)", ", as said", " or so", r"\text{ m}", " - done"]
)
@pytest.mark.parametrize("number", ["7", "10", "-1,234", "0.5", r"50\%"])
def test_it_holds_a_number_whatever_is_said_after_it(number: str, rest: str) -> None:
    assert last_boxed(rf"so \boxed {number}{rest}") == number


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


@pytest.mark.parametrize(
    "bomb",
    [
        r"\boxed{" * 100_000,
        r"\boxed{" * 50_000 + r"\boxed 7 " * 50_000,
        r"\boxed" + " " * 500_000,
        "{" * 500_000,
        "}" * 500_000,
    ],
)
def test_unbalanced_braces_are_searched_in_linear_time(bomb: str) -> None:
    started = time.process_time()
    assert last_boxed(bomb) is None
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 4", "4"),
        ("answer： 4", "4"),
        ("Answer: 3\nAnswer: 4\n", "4"),
        ("**Answer:** 4", "4"),
        ("**Answer: 4**", "4"),
        ("**Answer**: *4*", "4"),
        ("Answer:\n\n  4 \nas said", "4"),
        ("Answer: \\text{four}", "four"),
        ("Answer:", ""),
        ("The answers: 4", None),
        ("Nonanswer: 4", None),
        ("Answer 4", None),
        ("", None),
    ],
)
def test_what_follows_the_last_label_is_the_answer(text: str, answer: str | None) -> None:
    assert last_labelled(text, "answer") == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("```\na\n```", "a\n"),
        ("Here:\n```json\na\nb\n```\nbye", "a\nb\n"),
        ("```\na\n```\n~~~yaml\nb\n~~~\n", "b\n"),
        ("````\n```\na\n```\n````", "```\na\n```\n"),
        ("```\na", "a"),
        ("  a: |\n    ```\n", None),
        ("``a``", None),
        ("", None),
    ],
)
def test_the_last_fenced_block_is_found(text: str, content: str | None) -> None:
    assert last_fenced(text) == content


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (' "Paris" ', "Paris"),
        ("**_Paris_**", "Paris"),
        (r"$\text{Paris}$", "Paris"),
        (r"\(x\)", "x"),
        (r"\text{a} b \text{c}", r"\text{a} b \text{c}"),
        ("*a* or *b*", "*a* or *b*"),
        ("$5", "$5"),
        ("A*", "A*"),
        ("'", "'"),
        ("", ""),
    ],
)
def test_only_what_stands_around_all_of_an_answer_is_unwrapped(text: str, answer: str) -> None:
    assert unwrapped(text) == answer


@pytest.mark.parametrize("before", ["", "  ", "1. Do it:\n   "])
def test_a_fence_that_is_indented_further_is_part_of_the_program(before: str) -> None:
    content = 'def f():\n    """\n    ```\n    f()\n    ```\n    """\n'
    blanks = " " * len(before.rpartition("\n")[2])
    body = "".join(blanks + line + "\n" for line in content.split("\n")[:-1])
    text = f"{before}```python\n{body}{blanks}```\n"
    assert last_code_block(text) == content


ITEMS = ["", "  ", "   ", "1. Do it:\n   ", "- First:\n  ", "- a\n  - b\n    ", "1. ", "- ", "12) "]


@pytest.mark.parametrize("before", ITEMS)
@pytest.mark.parametrize("marks", ["```", "~~~~"])
def test_a_block_in_a_list_item_loses_the_indentation_of_its_fence(before: str, marks: str) -> None:
    content = 'def f():\n    return [\n\n        "a   b",\n    ]\n'
    lead = before.rpartition("\n")[2]
    blanks = " " * len(lead)
    lines = content.split("\n")[:-1]
    body = "\n".join(blanks + line if line else line for line in lines)
    text = f"Steps:\n\n{before}{marks}python\n{body}\n{blanks}{marks}\n\nDone."
    assert last_code_block(text) == content
    assert last_fenced(text) == content
    assert last_fenced(text.rpartition(f"{blanks}{marks}")[0]) == content
