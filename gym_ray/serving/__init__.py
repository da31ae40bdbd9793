"""Serving: the policy and the environments as one Ray Serve application.

`cluster.py` finds or starts Ray, `policy_replica.py` and `environment_replica.py` hold what runs
inside a replica, `application.py` builds and deploys the graph, `lease.py` decides who may take it
down.

Serve is used in its throughput-optimized form (user code and router on one event loop, gRPC
between replicas). Serve reads that flag when it is imported, in every process, so it is set
here, before anything of this package imports Serve, and passed to every worker.
"""

import os

#: Environment variables of the driver and of every worker.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    # Thousands of connections that open at once keep a proxy's event loop busy for longer than
    # the default of 10 s, and the controller would kill it with all its requests. A proxy that
    # died is noticed without this.
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "gym_ray.serving.bounded_http.bound_proxy",
    # By gRPC's default, a call between replicas may carry 4 MiB: less than a long rollout, and less
    # than the bodies the gateway takes. What may be as large is decided where it comes in.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "2147483647",
    # A replica that no longer answers cannot finish what it has: it is killed, not waited for.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
for _name, _value in SERVE_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
