"""Numbers of a run, and two runs compared: `gym-ray metrics`.

Owned here: pass@k and its kin, with intervals. Not owned here: metrics for Prometheus (telemetry).
"""
