"""`policy.engine_args` of `policy.engine: openai`."""

from __future__ import annotations

import os
from typing import Literal

import pydantic
from pydantic import Field

from gym_ray.errors import ConfigError
from gym_ray.policies.engine_arguments import EngineArguments


class OpenAIArgs(EngineArguments):
    """`policy.engine_args` of a remote policy."""

    base_urls: tuple[str, ...] = Field(min_length=1)
    """Servers of the same model; each address ends in `/v1`."""
    api: Literal["completions", "chat"] = "completions"
    """`completions`: token prompts, exact tokens. `chat`: messages, tokens if the server tells."""
    model: str | None = None
    """Name the servers know the model by; `policy.model` when None."""
    api_key_env: str | None = None
    """Environment variable that holds the key, where the policy replica runs."""
    context_length: int | None = Field(None, ge=2)
    """Most tokens of prompt plus generation; what `/v1/models` says when None."""
    max_retries: int = Field(5, ge=0)
    """Tries after the first one, on 429, 5xx, lost connections and timeouts."""
    try_timeout_seconds: float | None = Field(None, gt=0)
    """How long one try may take; None for all of the turn's own time."""
    outage_seconds: float = Field(30.0, ge=0)
    """How long a call waits while no server is up, before it is `policy_unavailable`."""
    max_connections: int = Field(16384, ge=1)
    """Calls in flight at once; further ones wait."""

    @pydantic.field_validator("base_urls")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        urls = tuple(url.rstrip("/") for url in value)
        for url in urls:
            if not url.startswith(("http://", "https://")) or not url.endswith("/v1"):
                raise ValueError(f"{url!r} must look like http://HOST:PORT/v1")
        if len(set(urls)) < len(urls):
            raise ValueError("names a server twice")
        return urls

    def api_key(self, *, section: str = "policy") -> str | None:
        """The key, from this process's environment.

        Args:
            section: of the config that these are in, for the message.

        Raises:
            ConfigError: the variable is not set here.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ConfigError(
                f"{section}.engine_args.api_key_env: {self.api_key_env} is not set where the "
                "policy replica runs; export it before Ray starts there"
            )
        return key
