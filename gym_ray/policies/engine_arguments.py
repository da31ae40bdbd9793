"""`engine_args` of engines that are our own: a pydantic model, refused in words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Self

import pydantic
from pydantic import ConfigDict

from gym_ray.errors import ConfigError


class EngineArguments(pydantic.BaseModel):
    """What `engine_args` of an engine may hold; one field a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, engine_args: Mapping[str, Any], *, section: str = "policy") -> Self:
        """Check `engine_args`.

        Args:
            engine_args: of the config.
            section: of the config that they are in, for the message: `policy`, or `judges.NAME`.

        Raises:
            ConfigError: a key or value is wrong; names the nearest valid key.
        """
        try:
            return cls.model_validate(dict(engine_args))
        except pydantic.ValidationError as error:
            problems = (cls._explain(dict(problem), section) for problem in error.errors())
            raise ConfigError("; ".join(problems)) from None

    @classmethod
    def _explain(cls, problem: Mapping[str, Any], section: str) -> str:
        key = ".".join(str(part) for part in problem["loc"])
        where = f"{section}.engine_args.{key}"
        if problem["type"] != "extra_forbidden":
            return f"{where}: {problem['msg']}"
        known = list(cls.model_fields)
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
