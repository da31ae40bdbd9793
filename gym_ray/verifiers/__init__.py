"""Where verifiers run: plain ones in processes that may be killed, never on the event loop."""

from gym_ray.verifiers.pool import VerifierPool

__all__ = ["VerifierPool"]
