"""Prompt templates: the input of raw rows, made of their fields.

A YAML file has `user` and perhaps `system`, texts with `{field}` or `{field.inner}` in them
(`verifiers.templates` has the rules). Applying one says what `responses_create_params` becomes;
a row that has an input already is refused: which of the two is meant?
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from gym_ray.config.section import Section
from gym_ray.errors import ConfigError
from gym_ray.task import invalid
from gym_ray.verifiers.templates import fill, names_in, value_of


class PromptTemplate(Section):
    """The file's content."""

    user: str = pydantic.Field(min_length=1)
    """What the user says."""
    system: str | None = None
    """What is said before, if anything."""

    @classmethod
    def read(cls, path: str) -> PromptTemplate:
        """Read a template.

        Raises:
            ConfigError: there is none at `path`, or it is something else.
        """
        try:
            tree = yaml.safe_load(Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"prompt {path}: cannot be read: {error}") from None
        try:
            return cls.model_validate(tree)
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
                for problem in error.errors()
            )
            raise ConfigError(
                f"prompt {path}: {problems}; write `user: …` and, if wanted, `system: …`"
            ) from None

    def create_params(self, row: Any) -> dict[str, Any]:
        """`responses_create_params` of a raw row: what it has there, and the input.

        Raises:
            RolloutFailure: `task_invalid`: an input is there, or a field that is asked for is not.
        """
        if not isinstance(row, dict):
            raise invalid("is no JSON object; a raw row must be one")
        params = row.get("responses_create_params", {})
        if not isinstance(params, dict):
            raise invalid("field 'responses_create_params' must be an object")
        if params.get("input") is not None:
            raise invalid(
                "field 'responses_create_params.input' is there already, and the prompt template "
                "would replace it; prepare such rows without a template"
            )
        texts = {"system": self.system, "user": self.user}
        items = [
            {"role": role, "content": _filled(text, row)}
            for role, text in texts.items()
            if text is not None
        ]
        return {**params, "input": items}


def _filled(template: str, row: Mapping[str, Any]) -> str:
    for name in names_in(template):
        try:
            value_of(name, row)
        except KeyError:
            nearest = difflib.get_close_matches(name, row, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise invalid(f"field {name!r} of the prompt template is not there{hint}") from None
    return fill(template, row)
