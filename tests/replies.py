"""Replies for the scripted policy, named in configs as `tests.replies:NAME`."""

import re
import zlib

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.engine import GenerationRequest


def right_sum(prompt: str, request: GenerationRequest) -> str:
    """The right answer to the last `a + b` of the prompt.

    A prompt with the word "flaky" fails for one request in three, by the hash of the request.
    """
    if "flaky" in prompt and zlib.crc32(request.request_id.encode()) % 3 == 0:
        raise RolloutFailure(FailureKind.POLICY_ERROR, "this one fails")
    first, second = re.findall(r"(\d+) \+ (\d+)", prompt)[-1]
    return str(int(first) + int(second))
