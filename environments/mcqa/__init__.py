r"""Multiple-choice questions, judged by the letter the reply settles on.

Owned here: which option a reply means, in each of NeMo Gym's grading modes. Not owned here: finding
boxes and labels in a text (`verifiers/answers.py`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import pydantic

from gym_ray.environment import Environment, GoldStep, Outcome, TaskFields
from gym_ray.errors import ConfigError
from gym_ray.task import Task
from gym_ray.verdict import Verdict
from gym_ray.verifiers.answers import last_boxed, last_labelled, unwrapped
from gym_ray.verifiers.text import plain

GradingMode = Literal[
    "strict_single_letter_boxed", "lenient_boxed", "lenient_answer_colon", "lenient_answer_colon_md"
]

_ONLY_A_LETTER = re.compile(r"[\W_]*([^\W\d_])[\W_]*")
#: Option letters of other scripts, as NeMo Gym reads them.
_LETTERS = str.maketrans("أبجدঅবডঢ", "ABCDABCD")
_ANSWER_COLON = re.compile(r"answer[*_]{0,2}[ \t]*[:：][*_\s]{0,2}([^\n]+)", re.IGNORECASE)
_LEADING_LETTER = re.compile(r"([A-Za-z])(?![A-Za-z0-9])")
_LONE_CAPITAL = re.compile(r"\b[A-Z]\b")
_LONE_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
#: A letter in a type of its own, as in `\textbf{(B) }south`.
_WITHOUT_COMMANDS = re.compile(r"^\s*\\(?:text(?:bf|rm|it)?|math(?:bf|rm|sf))\{([^{}]*)\}(?=\s*\S)")
_LIST_SEPARATOR = re.compile(r"\s*[/|&,;]\s*|\s+(?:or|and)\s+|\s+", re.IGNORECASE)
_LABELLED_LETTER = re.compile(r"[\W_]*([^\W\d_])\s*(?:[:)]|[.\-–—](?=\s))\s*(.*)", re.DOTALL)


class McqaEnvironment(Environment):
    r"""Reward 1 when the reply settles on the letter of `expected_answer`, else 0.

    How the letter is found is the row's: by `template_metadata.output_regex` where that finds one,
    else by its `grading_mode`.

    Args:
        grading_mode: of all rows, whatever they say; None leaves it to them.
    """

    class Fields(TaskFields):
        class Template(TaskFields):
            output_regex: str | list[str] | None = None
            """Its first group is the letter or the text of an option; matched in either case, and
            the last match counts. Of several, the first that finds one."""

            @pydantic.field_validator("output_regex")
            @classmethod
            def _has_a_group(cls, patterns: str | list[str] | None) -> str | list[str] | None:
                for pattern in [patterns] if isinstance(patterns, str) else patterns or []:
                    try:
                        groups = re.compile(pattern).groups
                    except re.error as error:
                        raise ValueError(f"is no regular expression ({error})") from None
                    if groups == 0:
                        raise ValueError("needs a group (...) around the letter")
                return patterns

        template_metadata: Template | None = None
        options: dict[Annotated[str, pydantic.Field(pattern=r"^[^\W\d_]$")], str] | None = (
            pydantic.Field(default=None, validate_default=True)
        )
        """Letters and what they stand for; NeMo Gym writes a list of objects of one key each. May
        be missing beside a pattern."""
        expected_answer: str
        """One of the letters."""
        grading_mode: GradingMode = "strict_single_letter_boxed"

        @pydantic.field_validator("options", mode="before")
        @classmethod
        def _merge(cls, options: object) -> object:
            if isinstance(options, Mapping):
                return _without_nulls(options)
            if not isinstance(options, list):
                return options
            merged: dict[str, object] = {}
            for option in options:
                # Tools that want the same keys in each row fill up with null.
                given = _without_nulls(option) if isinstance(option, Mapping) else {}
                if len(given) != 1:
                    raise ValueError("each option must be an object of one letter")
                letter = next(iter(given))
                if letter in merged:
                    raise ValueError(f"letter {letter!r} occurs twice")
                merged |= given
            return merged

        @pydantic.field_validator("options")
        @classmethod
        def _distinct(
            cls, options: dict[str, str] | None, info: pydantic.ValidationInfo
        ) -> dict[str, str] | None:
            if options is None:
                template = info.data.get("template_metadata")
                if template is None or not template.output_regex:
                    raise ValueError("is missing; only a row with an output_regex needs none")
                return None
            if len(options) < 2:
                raise ValueError("there must be two or more")
            if len({letter.upper() for letter in options}) < len(options):
                raise ValueError("two letters differ in case only")
            return options

        @pydantic.field_validator("expected_answer")
        @classmethod
        def _is_an_option(cls, letter: str, info: pydantic.ValidationInfo) -> str:
            if "options" not in info.data:
                return letter
            options = info.data["options"]
            found = _letter_in(letter.strip(), options)
            if found is None:
                known = "no letter" if options is None else f"none of {', '.join(options)}"
                raise ValueError(f"is {letter!r}, {known}")
            return found

    def __init__(self, *, grading_mode: GradingMode | None = None) -> None:
        if grading_mode not in (None, *get_args(GradingMode)):
            known = ", ".join(get_args(GradingMode))
            raise ConfigError(f"grading_mode must be one of {known}, got {grading_mode!r}")
        self._grading_mode = grading_mode

    def verify(self, outcome: Outcome) -> Verdict:
        fields = self._fields(outcome.task)
        letter = chosen_letter(outcome.text, fields)
        return Verdict(
            float(letter == fields.expected_answer), metrics={"answer_found": letter is not None}
        )

    def answer(self, task: Task, text: str) -> str | None:
        return chosen_letter(text, self._fields(task))

    def gold_answer(self, task: Task) -> str | Sequence[GoldStep] | None:
        fields = self._fields(task)
        if fields.template_metadata is not None and fields.template_metadata.output_regex:
            return super().gold_answer(task)  # a pattern does not say what matches it
        if fields.grading_mode.startswith("lenient_answer_colon"):
            return f"Answer: {fields.expected_answer}"
        return f"\\boxed{{{fields.expected_answer}}}"

    def _fields(self, task: Task) -> Fields:
        fields = self.Fields.model_validate(task.row)
        if self._grading_mode is None:
            return fields
        return fields.model_copy(update={"grading_mode": self._grading_mode})


#: What letters stand for; None where the row does not say, and any letter may be one.
Options = Mapping[str, str] | None


def chosen_letter(reply: str, fields: McqaEnvironment.Fields) -> str | None:
    """The option a reply settles on, by the row's pattern, else by its mode; None when it settles
    on none."""
    template, options = fields.template_metadata, fields.options
    patterns = template.output_regex if template is not None else None
    for pattern in [patterns] if isinstance(patterns, str) else patterns or []:
        letter = _by_pattern(reply, pattern, options)
        if letter is not None:
            return letter
    if fields.grading_mode == "lenient_answer_colon":
        stated = last_labelled(reply, "answer")
        return None if stated is None else _lenient(_inside_box(stated), options)
    if fields.grading_mode == "lenient_answer_colon_md":
        stated_ones = [match[1] for match in _ANSWER_COLON.finditer(reply)]
        letters = (_in_a_sentence(_inside_box(stated), options) for stated in reversed(stated_ones))
        return next((letter for letter in letters if letter is not None), None)
    boxed = last_boxed(reply)
    if boxed is None:
        return None
    boxed = _WITHOUT_COMMANDS.sub(r"\1", _inside_box(boxed))
    if fields.grading_mode == "lenient_boxed":
        return _lenient(boxed, options)
    return _strict(boxed, options)


def _strict(answer: str, options: Options) -> str | None:
    """The letter alone, perhaps bracketed, or before a delimiter (`E: option text`)."""
    answer = unwrapped(answer)
    alone = _ONLY_A_LETTER.fullmatch(answer)
    if alone:
        return _exactly(alone[1], options)
    labelled = _LABELLED_LETTER.fullmatch(answer)
    letter = None if labelled is None else _exactly(labelled[1], options)
    if labelled is None or letter is None or _labels_in(labelled[2], options):
        return None
    return letter


def _lenient(answer: str, options: Options) -> str | None:
    """As `_strict` in either case, or the whole text of exactly one option."""
    alone = _ONLY_A_LETTER.fullmatch(unwrapped(answer))
    letter = _letter_in(alone[1], options) if alone else _strict(answer, options)
    return _meant(answer, options) if letter is None else letter


def _in_a_sentence(answer: str, options: Options) -> str | None:
    """The letter alone or first, else the last capital that stands alone; none of a list."""
    answer = unwrapped(answer.translate(_LETTERS)).strip("*_` \t\r.,;:([")
    letters = [
        match
        for match in _LONE_LETTER.finditer(answer)
        if _letter_in(match[0], options) is not None
    ]
    for one, other in itertools.pairwise(letters):
        between = answer[one.end() : other.start()]
        if one[0].upper() != other[0].upper() and _LIST_SEPARATOR.fullmatch(between):
            return None
    leading = _LEADING_LETTER.match(answer)
    if leading:
        return _letter_in(leading[1], options)
    capitals = _LONE_CAPITAL.findall(answer)
    return _letter_in(capitals[-1], options) if capitals else None


def _by_pattern(reply: str, pattern: str, options: Options) -> str | None:
    """The last match whose letter stands alone, or which is an option's text: in `Final Choice:
    Because …` there is none."""
    found = None
    for match in re.finditer(pattern, reply, re.IGNORECASE):
        group = next((number for number in range(1, match.re.groups + 1) if match[number]), None)
        if group is None:
            continue
        follows = reply[match.end(group) : match.end(group) + 1]
        answer = unwrapped(match[group])
        if len(answer) == 1:
            stands_alone = not (follows.isalnum() or follows == "_")
            found = _letter_in(answer, options) if stands_alone else found
        else:
            found = _meant(answer, options) or found
    return found


def _meant(answer: str, options: Options) -> str | None:
    """The one option whose text this is."""
    text = _comparable(answer)
    meant = [key for key, option in (options or {}).items() if _comparable(option) == text]
    return meant[0] if len(meant) == 1 else None


def _exactly(letter: str, options: Options) -> str | None:
    if options is None:
        return _letter_in(letter, None) if letter.isupper() or not letter.isascii() else None
    if letter in options:
        return letter
    return None if letter.isascii() else _letter_in(letter, options)


def _letter_in(letter: str, options: Options) -> str | None:
    """The option of this letter, in either case, Arabic or Bengali; None when there is none."""
    if options is None:
        letter = letter.translate(_LETTERS).upper()
        return letter if len(letter) == 1 and letter.isalpha() else None
    return next(
        (key for key in options for one in (letter, letter.translate(_LETTERS))
         if key.upper() == one.upper()),
        None,
    )  # fmt: skip


def _labels_in(text: str, options: Options) -> bool:
    """Whether more options are labelled in what follows the first: then none was chosen."""
    letters = "A-Z" if options is None else "".join(options)
    return re.search(rf"(?<!\w)[{letters}]\s*[:)]", text) is not None


def _without_nulls(option: Mapping[Any, Any]) -> dict[Any, Any]:
    return {letter: text for letter, text in option.items() if text is not None}


def _inside_box(answer: str) -> str:
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


def _comparable(text: str) -> str:
    return plain(unwrapped(text)).casefold().rstrip(".").strip()
