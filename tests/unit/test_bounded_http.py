"""What a server reads of a request that is no body."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from gym_ray.serving import SERVE_ENVIRONMENT
from gym_ray.serving.bounded_http import MAX_HEAD_BYTES, BoundedHttp, bound_proxy
from gym_ray.serving.starting import StartingAnswer

PIECE = b"x" * 1024


async def _echo(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(_echo, http=BoundedHttp, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()
    server.should_exit = True
    thread.join(20)
    listener.close()


def sent(address: tuple[str, int], *pieces: bytes) -> bytes:
    """What comes back, and until the connection ends."""
    with socket.create_connection(address, timeout=20) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                answer += piece
        return answer


HEAD = b"POST / HTTP/1.1\r\nhost: a\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
MANY = 50 * MAX_HEAD_BYTES // len(PIECE)


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"a: ", *[PIECE] * MANY],
        [HEAD, *[b"a: " + PIECE + b"\r\n"] * MANY],
        [b"GET /", *[PIECE] * MANY],
        [CHUNKED, b"1\r\na\r\n0\r\n", *[b"a: " + PIECE + b"\r\n"] * MANY],
        [CHUNKED, b"1;", *[PIECE] * MANY],
    ],
    ids=["header", "headers", "path", "trailers", "chunk extension"],
)
def test_what_is_no_body_is_bounded(address: tuple[str, int], pieces: list[bytes]) -> None:
    # Either the answer, or a reset, as more was sent than was read.
    assert sent(address, *pieces)[:12] in (b"HTTP/1.1 400", b"")


@pytest.mark.parametrize("size", [0, 1, MAX_HEAD_BYTES, 40 * MAX_HEAD_BYTES])
def test_bodies_are_not_in_whatever_pieces_they_come(address: tuple[str, int], size: int) -> None:
    body = b"x" * size
    head = HEAD + f"content-length: {size}\r\nconnection: close\r\n\r\n".encode()
    chunks = [b"%x\r\n%s\r\n" % (len(PIECE), PIECE)] * (size // len(PIECE))
    expected = str(size // len(PIECE) * len(PIECE)).encode()
    close = CHUNKED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")

    assert sent(address, head + body).endswith(b"\r\n\r\n" + str(size).encode())
    assert sent(address, head, body).endswith(b"\r\n\r\n" + str(size).encode())
    assert sent(address, close, *chunks, b"0\r\n\r\n").endswith(b"\r\n\r\n" + expected)


def test_many_requests_on_one_connection_do_not_add_up(address: tuple[str, int]) -> None:
    request = HEAD + b"a: " + PIECE + b"\r\ncontent-length: 0\r\n\r\n"
    with socket.create_connection(address, timeout=20) as connection:
        for _ in range(2 * MAX_HEAD_BYTES // len(request)):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"\r\n\r\n0"):
                piece = connection.recv(65_536)
                assert piece
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200")


def test_serves_proxies_read_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "")
    path = SERVE_ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    assert path == f"{bound_proxy.__module__}.{bound_proxy.__name__}"
    assert [middleware.cls for middleware in bound_proxy()] == [StartingAnswer]
    config = uvicorn.Config(_echo)
    config.load()
    assert config.http_protocol_class is BoundedHttp
