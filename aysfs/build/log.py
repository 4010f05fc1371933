"""The log of one build: what its container said, under the step that made it say so.

Serves builds. Owns a file per service, and keeps the one of the build before it. Written from
one worker thread; anybody may read the file meanwhile.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from aysfs.build.private import make_private
from aysfs.errors import BuildFailed

Echo = Callable[[bytes], None]

_TAIL = 50  # lines that the message of a failure shows
_LINE = 16 << 10  # bytes of one of them


class BuildLog:
    """Takes bytes as they come and passes them on. Use it in a ``with``."""

    def __init__(self, path: Path, echo: Echo) -> None:
        self.path = path
        self.steps: list[str] = []
        self._echo = echo
        self._tail: deque[bytes] = deque(maxlen=_TAIL)
        self._rest = b""
        with self._kept():
            make_private(path.parent)  # what a build says is for whoever builds
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, self._before)
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> "BuildLog":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def say(self, data: bytes) -> None:
        """Output of a command, in pieces that end anywhere."""
        with self._kept():
            self._file.write(data)
        with contextlib.suppress(OSError):  # nobody listens any more: the log is there to read
            self._echo(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._tail.extend(line[-_LINE:] for line in lines)
        self._rest = self._rest[-_LINE:]

    def nothing_was_built(self) -> None:
        """The log of the build before stays the one to read, with what was said now at its end."""
        with self._kept(), contextlib.suppress(FileNotFoundError):
            said = self.path.read_bytes()
            with open(self._before, "ab") as before:
                before.write(said)
            os.replace(self._before, self.path)

    @property
    def _before(self) -> Path:
        return self.path.with_suffix(".log.1")

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BuildFailed(f"the log {self.path}: {error.strerror or error}") from error

    def note(self, words: str) -> None:
        """A line of our own."""
        start = b"\n" if self._rest else b""
        self.say(start + f"aysfs: {words}\n".encode(errors="backslashreplace"))

    @contextlib.contextmanager
    def step(self, words: str) -> Iterator[None]:
        """The block is a step of the build: a failure in it says which one, and what was said."""
        self.steps.append(words)
        self._tail.clear()
        self.note(words)
        try:
            yield
        except BuildFailed as failure:
            if failure.output:
                raise
            raise BuildFailed(
                str(failure), output=self.tail(), heard=True, hint=failure.hint
            ) from failure

    def tail(self) -> str:
        """The last lines of this step."""
        last = [self._rest] if self._rest else []
        return b"\n".join([*self._tail, *last]).decode(errors="replace").strip("\n")
