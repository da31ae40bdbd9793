"""Datasets: what is made of task rows before, and of rollouts after, a collection.

Not owned here: where rows are read from (collection.input), what a legal row is (task) and what
an environment asks of it (environment).
"""

from gym_ray.prepare.prepare import prepare
from gym_ray.prepare.prepare_report import PrepareReport
from gym_ray.prepare.task_files import TaskFile

__all__ = ["PrepareReport", "TaskFile", "prepare"]
