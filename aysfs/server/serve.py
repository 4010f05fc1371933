"""Runs the server: its socket, its certificate, and its end.

Serves ``aysfs store serve``. hypercorn speaks HTTP; what is set here is how long it waits for
whom. A client that reads nothing is ended by the kernel, by the socket's own timeout:
hypercorn would wait for it for ever.
"""

import resource
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from starlette.types import ASGIApp

from aysfs.errors import BadConfig

STALLED = 60.0  # seconds that a client may leave an answer unread
KEPT = 75.0  # seconds that a connection without a request is kept, as nginx does
GRACE = 10.0  # seconds that requests under way have when the server ends


class Tls(NamedTuple):
    """A certificate with its chain, and its key: files in PEM."""

    certificate: str
    key: str


def listen(address: str) -> socket.socket:
    """A socket at ``host:port``; BadConfig where that cannot be."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 0xFFFF:
        raise BadConfig(f"`{address}` is no address to listen at", hint="write HOST:PORT")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED * 1000))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.bind((host, int(port)))
    except OSError as error:
        raise BadConfig(
            f"cannot listen at {address}: {error.strerror or error}",
            hint="is another server there, and is the host one of this machine's?",
        ) from error
    return made


async def serve(
    app: ASGIApp,
    made: socket.socket,
    tls: Tls | None,
    ready: Callable[[str], None],
    ended: Callable[[], Awaitable[None]],
) -> None:
    """Serve at a socket until ``ended`` returns, and close it; ``ready`` is told the address."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a descriptor
    host, port = made.getsockname()[:2]
    config = Config()
    config.bind = [f"fd://{made.detach()}"]
    config.backlog = 1024
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.alpn_protocols = ["http/1.1"]
    config.keep_alive_timeout = KEPT
    config.keep_alive_max_requests = 1 << 40
    config.ssl_handshake_timeout = 15
    config.graceful_timeout = GRACE
    if tls is not None:
        config.certfile, config.keyfile = tls
        try:
            config.create_ssl_context()
        except OSError as error:  # SSLError is one
            raise BadConfig(f"{tls.certificate}, {tls.key}: {error.strerror or error}") from error
    where = f"[{host}]" if ":" in host else host
    async with trio.open_nursery() as nursery:
        await nursery.start(_serve_until, app, config, ended)
        ready(f"http{'s' if tls else ''}://{where}:{port}")


async def _serve_until(
    app: ASGIApp,
    config: Config,
    ended: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    await hypercorn_serve(
        app,  # type: ignore[arg-type]  # hypercorn has types of its own for the same thing
        config,
        shutdown_trigger=ended,
        task_status=task_status,
        mode="asgi",
    )
