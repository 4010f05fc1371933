"""Makes requests to a web server, in the event loop.

Serves the HTTP store. Owns the handles, what all of them are told (login, TLS, bounds), how many
there are, and the waits between tries. It must not know what a request asks for.
"""

import os
import ssl
from typing import Any

import certifi
import pycurl
import trio

from aysfs import __version__
from aysfs.errors import StoreTrouble
from aysfs.store.curl import CurlLoop
from aysfs.store.http_address import HttpAddress
from aysfs.store.http_request import Bounds, Request

REDIRECTS = 5

_BUFFER = 256 << 10
_AGENT = f"aysfs/{__version__}"
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


class HttpClient:
    """Requests to one server, and to where it redirects."""

    def __init__(self, address: HttpAddress, bounds: Bounds, connections: int) -> None:
        self._address = address
        self._bounds = bounds
        self._loop: CurlLoop | None = None  # made on first use, in the process that uses it
        # Nobody ever waits inside libcurl.
        self._connections = connections
        self._turn = trio.Semaphore(connections, max_value=connections)
        self._idle: list[Any] = []
        self._closed = False
        self._authorities = authorities()

    async def perform(self, request: Request) -> None:
        """Have it answered. What it does with the bytes must be quick."""
        self._check_open(request)
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            await self._perform(request)
        finally:
            self._turn.release()

    def paused(self, handle: Any) -> None:
        """Tell that a callback has its transfer paused."""
        if self._loop is not None:
            self._loop.paused(handle)

    def resume(self, handle: Any) -> None:
        """Let a transfer go on that its request has paused."""
        if self._loop is not None:
            self._loop.resume(handle)

    async def aclose(self) -> None:
        """End what is under way, and let all connections go."""
        self._closed = True
        if self._loop is not None:
            await self._loop.aclose()
        self._idle.clear()

    def _check_open(self, request: Request) -> None:
        if self._closed:
            raise StoreTrouble(f"{request.where}: the store was closed")

    async def _perform(self, request: Request) -> None:
        if self._loop is None:
            self._loop = CurlLoop(self._connections, self._bounds.idle, self._bounds.slowest)
        handle = self._idle.pop() if self._idle else self._configure(pycurl.Curl())
        try:
            while True:
                request.prepare(handle)
                pause = request.judge(handle, await self._loop.perform(handle))
                if pause is None:
                    return
                self._clean(handle, request)
                await trio.sleep(pause)
        finally:
            self._clean(handle, request)
            self._idle.append(handle)

    def _clean(self, handle: Any, request: Request) -> None:
        """Make a handle forget a request; connections are the loop's. Configuring it again
        costs 8 us, a tenth of a small blob.
        """
        if request.is_plain:
            handle.setopt(pycurl.WRITEFUNCTION, _drop)
        else:
            handle.reset()
            self._configure(handle)

    def _configure(self, handle: Any) -> Any:
        """Tell a fresh handle what is true of every request. Proxies are libcurl's own affair,
        by the environment's ``http_proxy``, ``https_proxy`` and ``no_proxy``.
        """
        bounds, followed = self._bounds, pycurl.PROTO_HTTPS
        if not self._address.is_secure:
            followed |= pycurl.PROTO_HTTP
        handle.setopt(pycurl.NOSIGNAL, True)
        handle.setopt(pycurl.PROTOCOLS, followed)
        handle.setopt(pycurl.REDIR_PROTOCOLS, followed)
        handle.setopt(pycurl.FOLLOWLOCATION, True)
        handle.setopt(pycurl.MAXREDIRS, REDIRECTS)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.USERAGENT, _AGENT)
        handle.setopt(pycurl.TCP_NODELAY, True)
        handle.setopt(pycurl.TCP_KEEPALIVE, True)
        handle.setopt(pycurl.BUFFERSIZE, _BUFFER)
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(bounds.connect * 1000))
        handle.setopt(pycurl.TIMEOUT_MS, int(bounds.whole * 1000))
        for option, value in self._authorities:
            handle.setopt(option, value)
        if self._address.login is not None:  # libcurl sends it to no other host
            handle.setopt(pycurl.HTTPAUTH, pycurl.HTTPAUTH_BASIC)
            handle.setopt(pycurl.USERNAME, self._address.login.encode())
            handle.setopt(pycurl.PASSWORD, (self._address.password or "").encode())
        return handle


def _drop(_data: bytes) -> None:
    """What an idle handle does with a body."""


def authorities() -> list[tuple[int, bytes]]:
    """Whose certificates are trusted: this host's store, which SSL_CERT_FILE and SSL_CERT_DIR
    replace. The libcurl of the wheel has an OpenSSL of its own and would look elsewhere.
    """
    paths = ssl.get_default_verify_paths()
    files = [paths.cafile, *_BUNDLES] if paths.cafile or not paths.capath else []
    for file in files:
        if file and os.path.isfile(file):
            return _trusting(pycurl.CAINFO, pycurl.PROXY_CAINFO, file)
    if paths.capath and os.path.isdir(paths.capath) and os.listdir(paths.capath):
        return _trusting(pycurl.CAPATH, pycurl.PROXY_CAPATH, paths.capath)
    return _trusting(pycurl.CAINFO, pycurl.PROXY_CAINFO, certifi.where())


def _trusting(option: int, of_proxy: int, path: str) -> list[tuple[int, bytes]]:
    name = os.fsencode(path)  # pycurl takes text only when it is ASCII
    return [(option, name), (of_proxy, name)]
