"""Tasks that are in the training data and in the validation data as well.

What a policy has trained on says nothing about what it has learned, and two published files of one
benchmark often share rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gym_ray.prepare.prepared_rows import task_ids_of
from gym_ray.prepare.task_files import Split
from gym_ray.store.duplicates import duplicates


def overlap(files: Iterable[tuple[Split, Path]], work: Path) -> int:
    """How many different tasks are in both.

    Args:
        files: Parquet files of checked rows, and which data they are.
        work: folder where temporary files may be written.
    """
    known = list(files)
    validation = [path for split, path in known if split == "validation"]
    train = [path for split, path in known if split == "train"]
    if not validation or not train:
        return 0
    # First rows of their content among the training rows that are none once validation comes first.
    alone = duplicates(_task_ids(train), work)
    after = duplicates(itertools.chain(_task_ids(validation), _task_ids(train)), work)
    return int(np.count_nonzero(after[len(after) - len(alone) :] & ~alone))


def _task_ids(paths: Sequence[Path]) -> itertools.chain[str]:
    return itertools.chain.from_iterable(task_ids_of(path) for path in paths)
