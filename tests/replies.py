"""Replies for the scripted policy, named in configs as `tests.replies:NAME`."""

import json
import re
import zlib

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.engine import GenerationRequest


def right_sum(prompt: str, request: GenerationRequest) -> str:
    """The right answer to the last `a + b` of the prompt.

    A prompt with the word "flaky" fails for one request in three, by the hash of the request.
    """
    if "flaky" in prompt and zlib.crc32(request.call.request_id.encode()) % 3 == 0:
        raise RolloutFailure(FailureKind.POLICY_ERROR, "this one fails")
    first, second = re.findall(r"(\d+) \+ (\d+)", prompt)[-1]
    return str(int(first) + int(second))


def turns_in_the_prompt(prompt: str, request: GenerationRequest) -> str:
    """Each turn says what the row's `replies: [...]` holds for it; the last one again and again."""
    turn = int(request.call.request_id.rsplit("/", 1)[1])
    found = re.search(r"replies: (\[.*?\])<\|im_end\|>", prompt)
    assert found is not None
    replies: list[str] = json.loads(found[1])
    return replies[min(turn, len(replies) - 1)]


def as_asked(prompt: str, request: GenerationRequest) -> str:
    """What the prompt's kind of task asks for: its `replies`, its sum, or anything."""
    if "replies: [" in prompt:
        return turns_in_the_prompt(prompt, request)
    return right_sum(prompt, request) if re.search(r"\d \+ \d", prompt) else "Go on."


def tool_calls(*calls: tuple[str, object]) -> str:
    """Text of a turn with these calls, each a tool's name and its arguments."""
    return "\n".join(
        "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"
        for name, arguments in calls
    )


def row_of(replies: list[str], **fields: object) -> dict[str, object]:
    """A task row to which a policy with `turns_in_the_prompt` says `replies`, turn by turn."""
    return {"responses_create_params": {"input": f"replies: {json.dumps(replies)}"}, **fields}
