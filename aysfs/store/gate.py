"""A sink that a worker thread writes to, and that its caller can close.

Serves stores whose ``get`` runs in a thread; owns the moment after which not a byte is passed.
"""

import threading

from aysfs.store.protocol import Sink


class _AbandonedError(Exception):
    """The caller has gone: ends the worker thread, and nobody sees it."""


class Gate:
    """Passes a thread's writes on until the caller has gone, and after that not one more.

    A cancelled caller closes its descriptors, whose numbers are soon another file's: a late
    write would damage that one. ``close`` waits for the write under way, one chunk at most.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._closed = False

    def write(self, data: bytes | memoryview, /) -> None:
        with self._lock:
            if self._closed:
                raise _AbandonedError
            self._sink.write(data)

    def restart(self) -> None:
        with self._lock:
            if self._closed:
                raise _AbandonedError
            self._sink.restart()

    def close(self) -> None:
        with self._lock:
            self._closed = True
