"""Whether any server of a remote policy listens, asked before anything starts.

Owned here: what is sure within two seconds, that nobody listens anywhere. Not owned here: whether a
server fits, which the engine examines.
"""

from __future__ import annotations

import socket
import threading
import time
from urllib.parse import urlsplit

from gym_ray.errors import ConfigError
from gym_ray.policies.openai.arguments import OpenAIArgs

#: How long all servers together may take; one that has not answered by then may be far away.
_SECONDS = 2.0

_PORTS = {"http": 80, "https": 443}


def require_server(args: OpenAIArgs, *, section: str = "policy") -> None:
    """Refuse a remote policy of which no server listens.

    Args:
        args: names the servers.
        section: of the config that they are in, for the message.

    Raises:
        ConfigError: every address refuses connections, or has a host that is not found.
    """
    refused: dict[str, str] = {}
    threads = [
        threading.Thread(target=_connect, args=(url, refused), daemon=True)
        for url in args.base_urls
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if len(refused) == len(args.base_urls):
        reasons = "; ".join(f"{url}: {refused[url]}" for url in args.base_urls)
        raise ConfigError(
            f"no server of {section}.engine_args.base_urls is up: {reasons}; start one, or mend "
            "the address"
        )


def _connect(url: str, refused: dict[str, str]) -> None:
    """Note why a server cannot be reached, if that is sure."""
    address = urlsplit(url)
    try:
        port = address.port or _PORTS[address.scheme]
        with socket.create_connection((address.hostname or "", port), timeout=_SECONDS):
            pass
    except TimeoutError:
        pass
    except (OSError, ValueError) as error:
        refused[url] = getattr(error, "strerror", None) or str(error)
