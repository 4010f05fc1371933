"""What a mount's readers read first: noted by its daemon, asked for over the control socket.

Serves both engines, and the commands that make a profile of a start. A mount records when its
options say so. The operation is ``record``: ``begin`` forgets what was noted and gives the
record's number, anything else asks for the reads from a position on, as many as fit into an answer.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from aysfs.digest import Digest, from_hex
from aysfs.errors import MountFailed
from aysfs.mount.client import Answer, ask
from aysfs.profile import Read

_PAGE = 10_000  # reads in one answer, at most 60 bytes each


class Recorder:
    """The first read of every blob since the record began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        # Another daemon, that takes over a mount of one that died, has another number.
        self._number = os.urandom(8).hex()
        self._began = self._clock()
        self._reads: dict[Digest, tuple[int, int]] = {}

    def note(self, digest: Digest, size: int) -> None:
        """A blob is about to be read; an empty one never is."""
        if size and digest not in self._reads:
            self._reads[digest] = (size, round((self._clock() - self._began) * 1e3))

    async def answer(self, argument: str) -> Answer:
        """Answer the control socket."""
        if argument == "begin":
            self._begin()
        start = int(argument) if argument.isdecimal() else 0
        some = list(self._reads.items())[start : start + _PAGE]
        reads = [[digest.hex(), size, time] for digest, (size, time) in some]
        return {"number": self._number, "reads": reads}


def begin(control: Path) -> str:
    """Let a mount's record begin now; its number."""
    return str(ask(control, "record", "begin")["number"])


def recorded(control: Path, number: str) -> list[Read]:
    """What was read since ``begin`` gave this number. MountFailed where that is not known."""
    found: list[Read] = []
    while True:
        answer = ask(control, "record", str(len(found)))
        if answer["number"] != number:
            raise MountFailed(
                "the daemon died while a start was recorded", hint="its log says why; record again"
            )
        page = answer["reads"]
        assert isinstance(page, list)
        found += [Read(from_hex(md5), size, time) for md5, size, time in page]
        if len(page) < _PAGE:
            return found
