"""Remote policies: any server that speaks OpenAI's API, as an engine without weights of its own.

`engine.py` is the engine; `arguments.py` its `engine_args`; `listening.py` whether any server is up
at all; `endpoints.py` which server a call goes to; `transport.py` the call with its retries;
`completions.py` (tokens in and out) and `chat.py` (messages) what is sent and how the answer reads;
`tokens.py` what both know of tokens.
"""

from gym_ray.policies.openai.arguments import OpenAIArgs
from gym_ray.policies.openai.engine import OpenAIEngine

__all__ = ["OpenAIArgs", "OpenAIEngine"]
