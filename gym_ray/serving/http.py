"""Serve's HTTP proxies: one set per cluster, started once, with options nobody can change later.

Whoever starts Serve first decides whether and where it listens; `collect` starts it without
HTTP. Owned here: starting it with HTTP where it does not run yet or where nothing runs on it,
and saying clearly why that cannot be.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from gym_ray.config.commands import ServeConfig
from gym_ray.errors import ConfigError, GymRayError, one_line
from gym_ray.serving.application import Report, take_down_unheld
from gym_ray.serving.lease import any_holders

#: An idle connection is kept this long: agents pause between turns.
_KEEP_ALIVE_SECONDS = 600

_ALL_INTERFACES = ("0.0.0.0", "::")


def start_http(config: ServeConfig, report: Report) -> str:
    """Have Serve listen at `serve.host` and `serve.port`.

    Returns:
        The base URL, without a slash at its end.

    Raises:
        ConfigError: the port is taken, or a Serve in use listens elsewhere or not at all.
        GymRayError: the proxies do not start.
    """
    from ray import serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        details = client.get_serve_details()
        obstacle = _obstacle(details, config)
        if obstacle is None:
            return _base_url(config, details)
        take_down_unheld(except_for="", report=report)
        if serve.status().applications or any_holders():
            raise ConfigError(
                f"Serve runs on this cluster already and {obstacle}, which cannot be changed "
                "while applications run on it: "
                f"{', '.join(sorted(serve.status().applications)) or 'one is starting'}. "
                "Stop them and try again, set serve.host and serve.port to what it has, or use "
                "another cluster"
            )
        report(f"starting Serve anew, as it {obstacle}")
        serve.shutdown()
    if _is_head_here():  # It is told before a proxy fails of it.
        require_free_port(config)
    try:
        serve.start(
            # A node without replicas has none; on others, local agents need not cross nodes.
            proxy_location="EveryNode",
            http_options={
                "host": config.host,
                "port": config.port,
                # Rollouts take as long as they take, and have deadlines of their own.
                "request_timeout_s": None,
                "keep_alive_timeout_s": _KEEP_ALIVE_SECONDS,
            },
            logging_config={"enable_access_log": False},
        )
    except Exception as error:
        serve.shutdown()
        raise GymRayError(
            f"HTTP does not start at {config.host}:{config.port}: {one_line(error)}"
        ) from error
    return _base_url(config, {})


def _obstacle(details: Mapping[str, Any], config: ServeConfig) -> str | None:
    """Why a running Serve does not do, as "it …"; None when it does."""
    options = details.get("http_options") or {}
    if details.get("proxy_location") in (None, "Disabled"):
        return "was started without HTTP (as `collect` does)"
    host, port = options.get("host", "127.0.0.1"), options.get("port", 8000)
    if (host, port) != (config.host, config.port):
        return f"listens on {host}:{port}, not on {config.host}:{config.port}"
    if options.get("request_timeout_s"):
        return f"cuts requests off after {options['request_timeout_s']:g} s"
    return None


def _base_url(config: ServeConfig, details: Mapping[str, Any]) -> str:
    import ray

    host = config.host
    if host in _ALL_INTERFACES:
        host = ray.util.get_node_ip_address()
    host = f"[{host}]" if ":" in host else host
    root = (details.get("http_options") or {}).get("root_path") or ""
    return f"http://{host}:{config.port}{root}".rstrip("/")


def require_free_port(config: ServeConfig) -> None:
    """Refuse a port of this machine that is taken, or an address that it does not have.

    Raises:
        ConfigError: says why, and what to set.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on serve.host={config.host}, serve.port={config.port}: "
            f"{error.strerror or error}; set another one, e.g. serve.port={config.port + 1}"
        ) from None


def _is_head_here() -> bool:
    """Whether the node this process is on gets a proxy."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(
        node["NodeID"] == here
        for node in ray.nodes()
        if node["Alive"] and "node:__internal_head__" in node["Resources"]
    )
