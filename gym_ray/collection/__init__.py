"""Collection: tasks in, a dataset of verified rollouts out, on Ray Data.

`collector.py` is the whole of it in order; every other module is one noun it uses.
"""

from gym_ray.collection.collector import collect
from gym_ray.collection.reading import Rollouts, read_rollouts
from gym_ray.collection.summary import RunSummary

__all__ = ["Rollouts", "RunSummary", "collect", "read_rollouts"]
