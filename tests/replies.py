"""Replies for the scripted policy, named in configs as `tests.replies:NAME`."""

import re

from gym_ray.policies.engine import GenerationRequest


def right_sum(prompt: str, request: GenerationRequest) -> str:
    """The right answer to the last `a + b` of the prompt."""
    first, second = re.findall(r"(\d+) \+ (\d+)", prompt)[-1]
    return str(int(first) + int(second))
