"""The base of every section of a configuration."""

from __future__ import annotations

import pydantic


class Section(pydantic.BaseModel):
    """Base of every section: frozen, and no key it does not know."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
