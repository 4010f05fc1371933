"""A container, what runs in it, and what that says.

Serves builds and their verification. Everything blocks: call it from worker threads.
"""

import contextlib
import shlex
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, BinaryIO

import docker.errors

from aysfs.build.connection import Connection
from aysfs.errors import BuildFailed, ServerTrouble

Say = Callable[[bytes], None]
"""Takes output as it comes, in pieces that end anywhere."""

_STOPPED = "the container was stopped from outside"
_KILLED = 137  # the exit code of SIGKILL: of the command alone, or of the whole container,
_DYING = 5.0  # which Docker says to run for a moment after the last of it has died


class Container:
    """A running container."""

    def __init__(self, engine: Connection, identity: str, name: str) -> None:
        self.engine = engine
        self.id = identity
        self.name = name

    def run(
        self,
        command: str | Sequence[str],
        say: Say,
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> int:
        """Run a command, a text by ``sh -c``, to its end; its exit code.

        ServerTrouble when the container is gone.
        """
        with self._exec(command, environment, directory) as running:
            for out, err in running.frames:
                say(out or err or b"")
        return running.exit_code()

    def output(
        self,
        command: str | Sequence[str],
        *,
        say: Say | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Run a command; its exit code and all that it says on its standard output.

        ``say`` takes what it says on standard error.
        """
        pieces: list[bytes] = []
        with self._exec(command, environment, None) as running:
            for out, err in running.frames:
                if out:
                    pieces.append(out)
                if err and say is not None:
                    say(err)
        return running.exit_code(), b"".join(pieces)

    def put(self, archive: BinaryIO | bytes, path: str = "/") -> None:
        """Unpack a tar below a directory of the container that is there."""
        with self._trouble(f"nothing can be put into {path}"):
            self.engine.api.put_archive(self.id, path, archive)

    @contextlib.contextmanager
    def stream(self, command: Sequence[str]) -> Iterator["Output"]:
        """A command's standard output as it comes. The receiver asks for its end."""
        with self._exec(command, None, None) as running:
            yield Output(running)

    @contextlib.contextmanager
    def archive(self, path: str) -> Iterator[Iterator[bytes]]:
        """A file or directory as Docker packs it: no ``user.*`` xattrs and no nanoseconds."""
        with self._trouble(f"{path} cannot be read"):
            try:
                data, _ = self.engine.patient.get_archive(self.id, path, chunk_size=1 << 20)
            except docker.errors.NotFound:
                raise BuildFailed(f"there is no {path} in the container") from None
            try:
                yield data
            finally:
                data.close()  # Docker locks the container for as long as somebody may read on

    def pid(self) -> int:
        """The process on the engine's host that holds the container's namespaces."""
        with self._trouble("cannot be looked at"):
            return int(self.engine.api.inspect_container(self.id)["State"]["Pid"])

    @property
    def entry(self) -> str:
        """The command line by which a person looks into it."""
        command = f"docker exec -it {self.name} sh"
        return f"{self.engine.reach} {command}" if self.engine.reach else command

    def remove(self) -> None:
        """Stop it and remove it with its volumes; gone already is fine."""
        with self._trouble("cannot be removed"), contextlib.suppress(docker.errors.NotFound):
            self.engine.api.remove_container(self.id, force=True, v=True)

    @contextlib.contextmanager
    def _exec(
        self,
        command: str | Sequence[str],
        environment: Mapping[str, str] | None,
        directory: str | None,
    ) -> Iterator["_Running"]:
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        with self._trouble(f"`{shlex.join(words)[:200]}` cannot be run"):
            try:
                made = self.engine.api.exec_create(
                    self.id, words, environment=dict(environment or {}), workdir=directory
                )
                raw = self.engine.patient.exec_start(made["Id"], socket=True)
            except docker.errors.NotFound as error:
                raise ServerTrouble(f"{self}: the container is gone") from error
            except docker.errors.APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                # It does not run (nor is it paused: nobody pauses ours).
                raise ServerTrouble(f"{self}: {_STOPPED}") from error
            response = raw._response
            try:
                yield _Running(self, made["Id"], _frames(response.raw._fp.fp))
            finally:
                raw._sock.close()
                response.close()

    def _trouble(self, what: str) -> contextlib.AbstractContextManager[None]:
        return self.engine.trouble(f"container {self.name}: {what}")

    def __str__(self) -> str:
        return f"{self.engine.label}: container {self.name}"


class _Running:
    """A command under way: pairs of what it said on standard output and on standard error."""

    def __init__(self, container: Container, identity: str, frames: Iterable[Any]) -> None:
        self.frames: Iterator[tuple[bytes | None, bytes | None]] = iter(frames)
        self._container = container
        self._identity = identity

    def exit_code(self) -> int:
        """Its exit code. A container that was killed leaves none."""
        api = self._container.engine.api
        with self._container._trouble("its end is not known"):
            try:
                code = api.exec_inspect(self._identity)["ExitCode"]
                alive = self._is_alive(patience=_DYING if code == _KILLED else 0.0)
            except docker.errors.NotFound:
                code, alive = None, False
        if code is None or not alive:
            raise ServerTrouble(f"{self._container}: {_STOPPED}")
        return int(code)

    def _is_alive(self, patience: float) -> bool:
        """Whether the container runs, and still does in so many seconds."""
        end = time.monotonic() + patience
        api = self._container.engine.api
        while api.inspect_container(self._container.id)["State"]["Running"]:
            if time.monotonic() >= end:
                return True
            time.sleep(0.1)
        return False


class Output:
    """A command's standard output, read like a file. What it says on standard error is kept."""

    _KEPT = 64 << 10

    def __init__(self, running: _Running) -> None:
        self._running = running
        self._rest = memoryview(b"")
        self._said = bytearray()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, less only at the end."""
        pieces: list[bytes] = []
        while size > 0:
            if not self._rest:
                data = self._next()
                if data is None:
                    break
                self._rest = memoryview(data)
            piece = self._rest[:size]
            self._rest = self._rest[len(piece) :]
            size -= len(piece)
            pieces.append(bytes(piece))
        return b"".join(pieces)

    def end(self) -> tuple[int, str]:
        """Read to the end; the exit code, and what was said on standard error."""
        while self._next() is not None:
            pass
        return self._running.exit_code(), self._said.decode(errors="replace").strip()

    def _next(self) -> bytes | None:
        for out, err in self._running.frames:
            if err and len(self._said) < self._KEPT:
                self._said += err
            if out:
                return out
        return None


def _frames(file: BinaryIO) -> Iterator[tuple[bytes | None, bytes | None]]:
    """What a command says, from the buffered file that the answer's head was read from.

    The SDK reads the socket below it, and loses what came in one piece with the head: over ssh
    the whole output of `echo` was seen to be lost.
    """
    while len(head := file.read(8)) == 8:
        kind, size = struct.unpack(">BxxxL", head)
        data = file.read(size)
        yield (data, None) if kind == 1 else (None, data)
