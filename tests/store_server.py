"""`aysfs store serve` as a process on loopback, for the tests of any floor."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from aysfs.store.http_address import parse_http_address
from aysfs.store.http_request import Bounds
from aysfs.store.http_served import ServedStore

PATIENCE = 20.0


class StoreServer:
    """A server of the store in ``folder/root``, with options of the command. Port 0 is any."""

    def __init__(self, folder: Path, *options: str, root: Path | None = None) -> None:
        self.root = root or folder / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        self.log = folder / "serve.log"
        self.url = ""
        self.web = httpx.Client(timeout=PATIENCE, verify=False)
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    @property
    def host(self) -> str:
        """``host:port``."""
        return self.url.partition("://")[2]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "StoreServer":
        """Run until ``stop``; returns when it listens."""
        aysfs = Path(sys.executable).with_name("aysfs")
        listen = f"127.0.0.1:{self.port_wanted}"
        command = [str(aysfs), "store", "serve", str(self.root), "--listen", listen]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("serving at "), self.log.read_text()
        self.url = line.removeprefix("serving at ").strip()
        return self

    def logged(self, text: str) -> str:
        """The log, once it has this text: a request's line comes after its answer."""
        end = time.monotonic() + PATIENCE
        while text not in (log := self.log.read_text()):
            assert time.monotonic() < end, log
            os.sched_yield()
        return log

    @property
    def port_wanted(self) -> int:
        """The one that it had before, when it is started again."""
        return self.port if self.url else 0

    def stop(self) -> int:
        """End it as an operator would; its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        os.kill(self._process.pid, number)
        code = self._process.wait(PATIENCE)
        self._process.stdout.close()
        self._process = None
        return code

    def __enter__(self) -> "StoreServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        self.web.close()


@contextlib.asynccontextmanager
async def opened(server: StoreServer, namespace: str = "dedupe") -> AsyncIterator[ServedStore]:
    """The served store, by a client that gives up soon."""
    address = parse_http_address(server.url)
    store = ServedStore(address, namespace, bounds=Bounds(tries=2, backoff=0.01))
    try:
        yield store
    finally:
        await store.aclose()
