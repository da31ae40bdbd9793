"""HTTP as Serve's proxies read it, with a bound on all that is no body.

Uvicorn's parser keeps headers of any length, and takes longer the longer they are; whoever may not
pass the gateway's doors may still send them. Serve calls `bound_proxy` in every proxy, by its
variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

import uvicorn.config
from starlette.middleware import Middleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gym_ray.serving.starting import StartingAnswer

#: Request line and headers, and trailers: four times what other servers take.
MAX_HEAD_BYTES = 65_536


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection on which more comes than `MAX_HEAD_BYTES` that is neither body nor the
    end of a request: of headers, of trailers, or of what chunks carry beside their content.
    """

    _head_bytes = 0
    _moved_on = False

    def data_received(self, data: bytes) -> None:
        self._moved_on = False
        super().data_received(data)
        self._head_bytes = 0 if self._moved_on else self._head_bytes + len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Headers may have {MAX_HEAD_BYTES} bytes.")

    def on_body(self, body: bytes) -> None:
        self._moved_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved_on = True
        super().on_message_complete()


def bound_proxy() -> list[Middleware]:
    """Have servers of this process read HTTP by `BoundedHttp`; returns the proxy's middlewares."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedHttp.__name__}"
    return [Middleware(StartingAnswer)]
