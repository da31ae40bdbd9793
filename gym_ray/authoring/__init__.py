"""For authors of environments: templates that run at once, a check of what a run needs, and one
rollout in the terminal.
"""

from gym_ray.authoring.check import check_environment
from gym_ray.authoring.findings import CheckReport, Finding
from gym_ray.authoring.subject import Subject
from gym_ray.authoring.template import create_environment
from gym_ray.authoring.trial import Sampled, Scripted, Typed, try_environment

__all__ = [
    "CheckReport",
    "Finding",
    "Sampled",
    "Scripted",
    "Subject",
    "Typed",
    "check_environment",
    "create_environment",
    "try_environment",
]
