"""What a client raises. A rollout that failed is no error: it is a result whose status says so.

All are picklable: they carry one string.
"""

from __future__ import annotations

from gym_ray.errors import GymRayError


class ClientError(GymRayError):
    """The call cannot go on. What was acknowledged stays acknowledged."""


class Unauthorized(ClientError):
    """The service asks for another key (401), or the route is closed (403)."""


class BatchConflict(ClientError):
    """Another client took the batch over, or has given the same index another content (409)."""


class RequestRefused(ClientError):
    """The service does not take the request (400, 404 of the route, 413, 422)."""


class UpdateRefused(ClientError):
    """The weights are not the policy's, the version is no new one, or another update is under way
    (400, 409 of `/weights`); nothing has changed.
    """


class ServiceUnavailable(ClientError):
    """No answer, or only 408, 429 and errors of the server, after all retries."""


class CallTimeout(ClientError):
    """Not everything that was asked for was there within `timeout_seconds`."""


class ResultsMissing(ClientError):
    """The service knows nothing of rollouts it was given, however often they are given."""


class GroupFailed(ClientError):
    """A group has failed rollouts, and `on_failure="raise"`."""
