"""Features of stored rollouts for Hugging Face's `datasets`, which infers none from maps.

`load_dataset("parquet", …)` derives features from the schema of the files and refuses maps
(huggingface/datasets issue 5612). Told the features, it reads them. Exports have no maps and need
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from gym_ray.store.schema import SCHEMA

if TYPE_CHECKING:
    from datasets import Features


def rollout_features() -> Features:
    """What to hand to `load_dataset` as `features` for the shards of a run.

    Map columns (`reward_components`, `metrics`) become JSON: lists of `[name, value]`, so that
    `dict(row["metrics"])` is what they are.

    Example:
        >>> from datasets import load_dataset                     # doctest: +SKIP
        >>> load_dataset(                                         # doctest: +SKIP
        ...     "parquet",
        ...     data_files="runs/demo/rollouts/*.parquet",
        ...     features=rollout_features(),
        ... )

    Raises:
        ImportError: `datasets` is not installed.
    """
    from datasets import Features, Json

    maps = {field.name for field in SCHEMA if pa.types.is_map(field.type)}
    plain = Features.from_arrow_schema(pa.schema([f for f in SCHEMA if f.name not in maps]))
    return Features({name: Json() if name in maps else plain[name] for name in SCHEMA.names})
