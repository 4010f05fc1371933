"""The edge of the server: who asks, how often, what came of it, and one line for each request.

Serves ``aysfs.server.app``. Owns the login, the bound on the rate, the access log and the counting,
and the one place where an error becomes a status: trouble is 503, never 404. It must not know what
a request is about.
"""

import errno
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aysfs.errors import AysfsError, Corrupt, Missing, StoreTrouble, first_of
from aysfs.server.accounts import Account, Right
from aysfs.server.body import Disconnected
from aysfs.server.service import Action, Service

log = logging.getLogger(__name__)
access_log = logging.getLogger("aysfs.server.access")

DRAINED = 16 << 20  # bytes of a refused body that are read, so that the refusal is read too
OPEN_TO_ALL = ("/health",)

_ADDRESSES = 4096
_ACCOUNT = "aysfs.account"
_EXCHANGE = "aysfs.exchange"


class Guard:
    """An ASGI application around the one that answers."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._rates = _Rates(service.bounds.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return  # a websocket: closed
        exchange = _Exchange(scope, receive, send)
        scope[_EXCHANGE] = exchange
        metrics = self._service.metrics
        metrics.in_flight.inc()
        try:
            response = await self._turned_away(scope, exchange)
            await (response or self._app)(scope, exchange.receive, exchange.send)
        finally:
            metrics.in_flight.dec()
            metrics.requests.labels(exchange.kind, str(exchange.status)).inc()
            metrics.seconds.labels(exchange.kind).observe(exchange.seconds)
            metrics.received.inc(exchange.received)
            metrics.sent.inc(exchange.sent)
            access_log.info("%s", exchange)

    async def _turned_away(self, scope: Scope, exchange: "_Exchange") -> Response | None:
        """The answer to one who may not even ask; None for everybody else."""
        if wait := self._rates.wait(exchange.address):
            return _refusal(429, "too many requests", {"Retry-After": str(max(1, round(wait)))})
        if scope["path"] in OPEN_TO_ALL:
            return None
        account = await self._service.accounts.of(Request(scope).headers.get("authorization"))
        if account is None:
            return _refusal(401, "a login is needed", {"WWW-Authenticate": 'Basic realm="aysfs"'})
        exchange.login = account.login
        scope[_ACCOUNT] = account
        return None


def guarded(
    service: Service, actions: dict[str, Action]
) -> Callable[[Request], Awaitable[Response]]:
    """What answers at one path: does as the method asks, for those who may."""

    async def answer(request: Request) -> Response:
        action = actions["GET" if request.method == "HEAD" else request.method]
        exchange: _Exchange = request.scope[_EXCHANGE]
        exchange.kind = action.kind
        try:
            _check_right(action, request)
            response = await action.handler(service, request)
        except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
            response = _judge(service, first_of(error))
        return response

    return answer


def account_of(request: Request) -> Account:
    """Whose request it is."""
    account: Account = request.scope[_ACCOUNT]
    return account


def _check_right(action: Action, request: Request) -> None:
    needs = action.needs if isinstance(action.needs, tuple) else action.needs(request)
    if needs == (Right.NONE,):
        return
    if not any(need in account_of(request).rights for need in needs):
        wanted = " or ".join(str(need.name).lower() for need in needs)
        raise HTTPException(403, f"this login may not do that, it needs the right to {wanted}")


def _judge(service: Service, error: BaseException) -> Response:
    """The status that tells a client what it may conclude."""
    if isinstance(error, HTTPException):
        return _refusal(error.status_code, error.detail, dict(error.headers or {}))
    if isinstance(error, Disconnected):
        return _refusal(400, str(error))
    if not isinstance(error, AysfsError):
        log.error("internal error: %s", error, exc_info=error)
        return _refusal(500, "internal error")
    words = str(error).replace(f"{service.place.root}/", "")
    if isinstance(error, Missing):
        return _refusal(404, words)
    if isinstance(error, Corrupt):
        return _refusal(422, words)
    if isinstance(error, StoreTrouble):
        log.warning("%s", error)
        full = getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        return _refusal(507 if full else 503, words)
    return _refusal(400, words)


def _refusal(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": words}, status, headers)


class _Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.kind = "other"
        self.login = ""
        self.status = 0
        self.sent = 0
        self.received = 0
        self.address = (scope.get("client") or ("-",))[0]
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began = time.perf_counter()
        self._whole = False  # the body has been received

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        else:
            self._whole = True
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._drain()
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)

    async def _drain(self) -> None:
        """Read what is left of a small body: a client that still sends reads no answer."""
        if (self._whole or self._scope["method"] in ("GET", "HEAD")) or self._is_asking():
            return
        end = self.received + DRAINED
        with trio.move_on_after(5):
            while not self._whole and self.received < end:
                await self.receive()

    def _is_asking(self) -> bool:
        """Whether the client waits to be told to send (``Expect: 100-continue``)."""
        return not self.received and any(name == b"expect" for name, _ in self._scope["headers"])

    def __str__(self) -> str:
        raw = self._scope.get("raw_path") or self._scope["path"].encode()
        path = raw.decode("ascii", "backslashreplace").partition("?")[0]
        path = "".join(c if c.isprintable() and c not in '" ' else f"\\x{ord(c):02x}" for c in path)
        return (
            f"{self.address} {self.login or '-'} {self._scope['method']} {path} {self.status}"
            f" in={self.received} out={self.sent} {self.seconds * 1000:.1f}ms"
        )


class _Rates:
    """A bucket of two seconds' requests for each address."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Take one; seconds until there is one, 0 when it was taken."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        left, then = self._buckets.pop(address, (2 * self._rate, now))
        left = min(2 * self._rate, left + (now - then) * self._rate)
        taken = left >= 1
        self._buckets[address] = (left - taken, now)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - left) / self._rate
