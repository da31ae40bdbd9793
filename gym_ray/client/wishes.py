"""What a caller may wish for a call, and how it gets into task rows.

Owned here: the options of `run` and `groups`. Not owned here: what the service makes of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """Options of one call.

    Attributes:
        name: of the batch, for a client that may be killed and call again; None for a call that
            nobody continues.
        temperature, top_p, max_output_tokens: written into every row's `responses_create_params`,
            over what it says; None leaves the row as it is. `max_output_tokens` can only lower
            what the service allows.
        seed: turns of the same name and row are then sampled the same; None for the service's.
        rollout_timeout_seconds: deadline of one attempt, at most the service's; None for that.
        timeout_seconds: deadline of the whole call; None for none.
        max_in_flight: rollouts given away and not acknowledged at once, whether they run or
            wait to be taken.
        lease_seconds: after so long without a sign of life the service gives up what runs.
    """

    name: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    rollout_timeout_seconds: float | None = None
    timeout_seconds: float | None = None
    max_in_flight: int = 256
    lease_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {self.max_in_flight}")

    def row_of(self, task: Mapping[str, Any], index: int) -> bytes:
        """JSON of a task row with these wishes in it.

        Raises:
            ValueError: the task is no JSON object; the message names its index.
        """
        try:
            text = json.dumps(self._with_sampling(task), ensure_ascii=False, allow_nan=False)
            return text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"task {index} cannot be sent: {error}; a task is a JSON object "
                '{"responses_create_params": {"input": …}, …}'
            ) from error

    def _with_sampling(self, task: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(task, Mapping):
            raise TypeError(f"it is a {type(task).__name__}")
        given = {
            name: value
            for name in ("temperature", "top_p", "max_output_tokens")
            if (value := getattr(self, name)) is not None
        }
        params = task.get("responses_create_params")
        if not given or not isinstance(params, Mapping):
            return dict(task)
        return {**task, "responses_create_params": {**params, **given}}
