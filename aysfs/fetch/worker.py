"""``python -P -m aysfs.fetch.worker``: takes blobs out of packs into a cache, in its own process.

Started by ``workers``. Taking a blob in is seven calls of the kernel and of libraries that give the
interpreter away, and after each a thread waits until others give it back; a process has its own.
Evicts nothing. Its standard input is one end of a socket pair; it ends when the other is closed.

First comes one line of JSON, a ``Work``. Then batches, each answered before the next:

    to it    count u32, length u32; for each frame its blob's digest, size u64, where it begins u32
             and its length u32; and so many bytes, in which the frames are
    from it  for each frame, in their order, a Result as one byte, and behind it, unless it is DONE,
             a length u16 and what is wrong, in UTF-8
"""

import gc

if __name__ == "__main__":  # collections in vain were a sixth of the start
    gc.disable()

import json
import os
import socket
import sys
import time
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple

from aysfs.cache.blobs import Cache
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Corrupt, NoSpace, PackDamaged
from aysfs.fetch.segment import Frame
from aysfs.fetch.take import Taker
from aysfs.limits import Limits

HEAD = Struct("<II")
FRAME = Struct("<16sQII")
TROUBLE = Struct("<H")

_ANSWERS = 0.002  # seconds after which blobs that are here are told of
_NICENESS = 5  # readers and who serves them come first


class Result(IntEnum):
    """How a blob fared."""

    DONE = 0
    NO_SPACE = 1
    DAMAGED = 2
    UNUSABLE = 3


class Work(NamedTuple):
    """The cache that blobs are taken into, and its bounds in bytes."""

    cache: str
    size: int
    keep_free: int


def main() -> int:
    """Take in what comes, until nobody sends any more."""
    os.nice(_NICENESS)
    gc.freeze()  # what was imported is not walked from here on
    gc.enable()
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as end, end.makefile("rb") as asked:
        work = Work(**json.loads(asked.readline()))
        try:
            cache = Cache(Path(work.cache), Limits(work.size, work.keep_free))
        except AysfsError as error:
            print(f"aysfs: taking blobs in: {error}", file=sys.stderr)
            return error.code
        try:
            while len(head := asked.read(HEAD.size)) == HEAD.size:
                count, length = HEAD.unpack(head)
                _take_in(cache, _frames(asked, count), _all_of(asked, length), end)
        except (BrokenPipeError, ConnectionResetError, EOFError):  # nobody waits for it any more
            pass
        finally:
            cache.close()
    return 0


def _all_of(asked: BinaryIO, length: int) -> memoryview:
    data = asked.read(length)
    if len(data) != length:
        raise EOFError
    return memoryview(data)


def _frames(asked: BinaryIO, count: int) -> list[Frame]:
    return [
        Frame(Digest(digest), size, start, stored)
        for digest, size, start, stored in FRAME.iter_unpack(_all_of(asked, count * FRAME.size))
    ]


def _take_in(cache: Cache, frames: list[Frame], data: memoryview, end: socket.socket) -> None:
    answers, told = bytearray(), time.monotonic()
    for frame in frames:
        answers += _answer(cache, frame, data[frame.start : frame.start + frame.stored])
        if time.monotonic() - told > _ANSWERS:
            end.sendall(answers)
            answers, told = bytearray(), time.monotonic()
    end.sendall(answers)


def _answer(cache: Cache, frame: Frame, part: memoryview) -> bytes:
    try:
        Taker(cache, frame, make_way=False).take(part, opens=False)
    except NoSpace as error:
        return _trouble(Result.NO_SPACE, error)
    except (Corrupt, PackDamaged) as error:
        return _trouble(Result.DAMAGED, error)
    except AysfsError as error:
        return _trouble(Result.UNUSABLE, error)
    return bytes((Result.DONE,))


def _trouble(result: Result, error: AysfsError) -> bytes:
    words = str(error).encode(errors="replace")[:1000]
    return bytes((result,)) + TROUBLE.pack(len(words)) + words


if __name__ == "__main__":
    sys.exit(main())
