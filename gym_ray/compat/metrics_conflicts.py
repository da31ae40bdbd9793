"""Whether task metrics are still what they were: NeMo Gym's comparison of `*_metrics.json` files.

What was there must be there still, with the same values; what is new is no conflict. Numbers may
differ by 5e-3, those that are both below 1 by 5e-4 (`_validate_aggregate_metrics` of NeMo Gym's
`train_data_utils.py`): less is rounding. Lists may be in another order.

Not owned here: which files are compared, and what becomes of a conflict (prepare).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

_TOLERANCE, _TOLERANCE_BELOW_ONE = 5e-3, 5e-4


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` for everything that was there and is no longer the same.

    Args:
        before, after: contents of two metrics files.
    """
    return list(_differences("", before, after))


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key, value in before.items():
            inner = f"{path}.{key}" if path else str(key)
            if key not in after:
                yield f"{inner}: {_shown(value)} -> (absent)"
            else:
                yield from _differences(inner, value, after[key])
    elif not _same(before, after):
        yield f"{path}: {_shown(before)} -> {_shown(after)}"


def _same(before: Any, after: Any) -> bool:
    if _is_number(before) and _is_number(after):
        low = max(abs(before), abs(after)) < 1
        return bool(abs(before - after) <= (_TOLERANCE_BELOW_ONE if low else _TOLERANCE))
    if isinstance(before, list) and isinstance(after, list):
        return Counter(map(_shown, before)) == Counter(map(_shown, after))
    return bool(before == after)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
