"""Datasets on the Hugging Face Hub: a folder goes there whole, and comes back byte for byte.

Owned here: which files of a folder are its dataset, the card, what is there already, and messages
that say what to do. Not owned here: how bytes travel, which is huggingface_hub's; it is imported
when a command talks to the Hub and not before.
"""

from gym_ray.hub.pull import PullReport, pull
from gym_ray.hub.push import PushReport, push

__all__ = ["PullReport", "PushReport", "pull", "push"]
