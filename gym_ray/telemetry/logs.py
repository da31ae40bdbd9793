"""Logs of our worker processes: text for people, or one JSON object a line for machines.

Owned here: how lines look and where they go (standard error, which Ray keeps per process and
shows in `ray job logs`). Whoever logs passes `rollout_id`, `run_id` and the like as `extra`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from gym_ray.config.commands import LogFormat

#: What every record has; anything beyond was passed as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        # Ray's own notes begin with an underscore.
        line |= {
            key: value
            for key, value in vars(record).items()
            if key not in _STANDARD and not key.startswith("_")
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logs(log_format: LogFormat, stream: TextIO | None = None) -> logging.Handler:
    """Send what gym-ray logs in this process somewhere; once more changes the format.

    Args:
        log_format: how lines look.
        stream: where they go; standard error when None.

    Returns:
        What sends them.
    """
    own = logging.getLogger("gym_ray")
    stream = stream or sys.stderr
    for handler in own.handlers:
        if isinstance(handler, _Handler) and handler.stream is stream:
            break
    else:
        handler = _Handler(stream)
        own.addHandler(handler)
    own.setLevel(logging.INFO)
    own.propagate = False
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    return handler


class _Handler(logging.StreamHandler[Any]):
    """Ours, to be found again."""
