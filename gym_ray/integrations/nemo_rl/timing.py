"""Where a batch's time went, under the names NeMo RL logs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Timing:
    """Sums of seconds by label, from construction on.

    Args:
        prefix: of every name.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._started = time.perf_counter()
        self._sums = {"await_results": 0.0, "postprocess_results": 0.0}

    @contextlib.contextmanager
    def measured(self, label: str) -> Iterator[None]:
        """Adds the time spent inside to a label."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._sums[label] += time.perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """Seconds by label, and the share of post-processing in percent."""
        total = time.perf_counter() - self._started
        share = 100.0 * self._sums["postprocess_results"] / total
        seconds = {f"{self._prefix}/{label}": value for label, value in self._sums.items()}
        return {**seconds, f"{self._prefix}/postprocess_results_pct": share}
