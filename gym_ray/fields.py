"""What is known of one field of a JSON row, told where the row is made or checked.

Rows of Arrow have `columns.Column` instead.
"""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    """A field of a JSON object.

    Attributes:
        name: as it stands in the row; `a.b` is field `b` of the object in field `a`, and `a[].b`
            field `b` of each object in the list `a`.
        type: `string`, `number`, `int`, `bool`, `object`, `list` or `list<…>` of one of them;
            ` | ` between several, `null` among them where the value may be null.
        meaning: for docs/formats.md.
        required: whether every row has it.
    """

    name: str
    type: str
    meaning: str
    required: bool = False
