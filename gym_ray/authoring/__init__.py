"""For authors of environments: a template that runs at once, and a check of what a run needs."""

from gym_ray.authoring.check import check_environment
from gym_ray.authoring.findings import CheckReport, Finding
from gym_ray.authoring.template import create_environment

__all__ = ["CheckReport", "Finding", "check_environment", "create_environment"]
