"""A trainer's checkpoints into a running service, one after the other, over `POST /weights`.

Owned here: numbering, and trying again what the service says to repeat. Not owned here: writing
checkpoints, and what the service does with one (docs/weights.md).
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

from gym_ray.client import ClientError, RequestRefused, ServiceUnavailable, Unauthorized

_TRIES = 3
_PAUSE_SECONDS = 2.0


class Refit:
    """Replaces the weights of a service's policy.

    Args:
        base_url: of the service.
        admin_key: of `/weights`; None for the environment variable `GYM_RAY_ADMIN_KEY`.
        mode: what becomes of generations in flight: `keep` or `drain`.
        timeout_seconds: how long one request may take.
    """

    def __init__(
        self,
        base_url: str,
        *,
        admin_key: str | None = None,
        mode: Literal["keep", "drain"] = "keep",
        timeout_seconds: float = 900.0,
    ) -> None:
        self._url = base_url.rstrip("/") + "/weights"
        self._key = admin_key or os.environ.get("GYM_RAY_ADMIN_KEY", "")
        self._mode = mode
        self._timeout_seconds = timeout_seconds

    def version(self) -> int:
        """The policy's current version; 0 is what it was started with.

        Raises:
            ClientError: as `update`.
        """
        return int(self._ask(None)["version"])

    def update(self, checkpoint: str | Path) -> int:
        """Load a checkpoint on every replica, as the version after the current one.

        Args:
            checkpoint: a directory that every replica can read; keep it until the next update.

        Returns:
            the version, once every running replica has it.

        Raises:
            Unauthorized: not the admin key, or the service has none.
            RequestRefused: the checkpoint is not the policy's, or another update is under way.
            ServiceUnavailable: not complete after three tries.
        """
        version = self.version() + 1
        source = str(Path(checkpoint).resolve())
        return int(self._ask({"version": version, "source": source, "mode": self._mode})["version"])

    def _ask(self, update: dict[str, Any] | None) -> dict[str, Any]:
        """One request, repeated where that may help; None only asks."""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_SECONDS * attempt)
            try:
                return self._once(update)
            except (ServiceUnavailable, OSError, http.client.HTTPException, ValueError) as error:
                # The last two: an answer that was cut off, or is a proxy's and no JSON.
                failure = error
        raise ServiceUnavailable(f"{self._url}, after {_TRIES} tries: {failure}") from failure

    def _once(self, update: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        data = None if update is None else json.dumps(update).encode()
        request = urllib.request.Request(self._url, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_seconds) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            kind: type[ClientError] = RequestRefused
            if error.code in (401, 403):
                kind = Unauthorized
            elif error.code >= 500:
                kind = ServiceUnavailable
            raise kind(f"{self._url}: {error.code} {text}") from error
