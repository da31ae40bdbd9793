"""Rewards of stored rollouts computed anew, without sampling: `gym-ray reverify`.

The folder is not called `reverify` because that is the function `gym_ray.reverify`.
"""
