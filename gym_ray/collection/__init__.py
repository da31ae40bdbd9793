"""Collection: tasks in, a dataset of verified rollouts out, on Ray Data.

`collector.py` is the whole of it in order; every other module is one noun it uses.
"""

from gym_ray.collection.collector import collect
from gym_ray.collection.summary import RunSummary
from gym_ray.store.reading import Rollouts
from gym_ray.store.stored_run import read_rollouts

__all__ = ["Rollouts", "RunSummary", "collect", "read_rollouts"]
