"""Options of a call of the client, and how they get into task rows.

Owned here: the options of `run` and `groups`. Not owned here: what the service makes of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypedDict

from gym_ray.batches.result_page import BATCH_NAME


class CallOptions(TypedDict, total=False):
    """Options of one call of a client; all may be left out.

    Attributes:
        name: a stable name makes the call continuable: called again under it with the same tasks
            (by this process or the next), results that were acknowledged are not yielded again,
            those that were not are, with their index, and nothing runs twice. 1 to 200 letters,
            digits and `._:-`. None for a call that nobody continues.
        temperature, top_p, max_output_tokens: written into every row's `responses_create_params`,
            over what it says; None leaves the row as it is. `max_output_tokens` can only lower
            what the service allows.
        seed: turns of the same name and row are then sampled the same; None for the service's.
        rollout_timeout_seconds: deadline of one attempt, at most the service's; None for that.
        timeout_seconds: deadline of the whole call; None for none.
        max_in_flight: rollouts that run, or are finished and not acknowledged, at most; None
            for the client's.
    """

    name: str | None
    temperature: float | None
    top_p: float | None
    max_output_tokens: int | None
    seed: int | None
    rollout_timeout_seconds: float | None
    timeout_seconds: float | None
    max_in_flight: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedOptions:
    """Options of one call, complete: see `CallOptions`.

    Attributes:
        lease_seconds: after so long without a sign of life the service gives up what runs.
    """

    max_in_flight: int
    lease_seconds: float
    name: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    rollout_timeout_seconds: float | None = None
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {self.max_in_flight}")
        if self.name is not None and not BATCH_NAME.fullmatch(self.name):
            raise ValueError(
                f"name must be 1 to 200 letters, digits and . _ : -, not {self.name!r}"
            )

    def row_of(self, task: Mapping[str, Any], index: int) -> bytes:
        """JSON of a task row with these options in it.

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
