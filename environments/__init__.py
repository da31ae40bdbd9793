"""Environments that come with gym-ray: one folder each with code, config, example data, README.

The repository's top-level `environments/` and the package `gym_ray.environments` are the same
folder (a link), so that the wheel carries it inside gym-ray's own namespace.
"""
