import os

# Ray must be started by tests on purpose, never by touching ray.data.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
