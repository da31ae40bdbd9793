"""Collection: tasks in, a dataset of verified rollouts out, on Ray Data.

`collector.py` is the whole of it in order; every other module is one noun it uses. Importing this
package imports none of them: its actors need one module each, and every command starts some.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gym_ray.collection.collector import collect as collect
    from gym_ray.collection.summary import RunSummary as RunSummary

_HOME = {
    "RunSummary": "gym_ray.collection.summary",
    "collect": "gym_ray.collection.collector",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
