"""Hosts one engine in a process of its own and waits to be killed; see test_processes.py.

    python engine_host.py MODEL [NUMERIC_ARGUMENT=VALUE ...]

Prints one line of JSON once the engine serves: its seed.
"""

from __future__ import annotations

import asyncio
import json
import sys

from gym_ray.policies.vllm import VllmEngine


async def main(model: str, *arguments: str) -> None:
    engine = VllmEngine(
        model=model,
        engine_args={
            "dtype": "float32",
            "max_model_len": 512,
            "max_num_seqs": 2,
            "kv_cache_memory_bytes": 64 * 1024**2,
            **{name: int(value) for name, _, value in (text.partition("=") for text in arguments)},
        },
    )
    info = await engine.start()
    print(json.dumps({"seed": info.seed}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
