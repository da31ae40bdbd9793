"""What a running service says of itself: metrics for Prometheus, traces of rollouts, logs."""
