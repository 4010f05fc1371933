"""A large blob with chunks, and a store that has it."""

import random

from aysfs import digest as digests
from aysfs.chunks import ChunkHasher, Chunks
from aysfs.digest import Digest
from aysfs.limits import CHUNK, LARGE
from aysfs.store.memory import MemoryStore

_MEBIBYTE = random.Random(5).randbytes(1 << 20)
DATA = b"".join(b"%8d" % number + _MEBIBYTE[8:] for number in range(LARGE >> 20)) + b"a" * 400_000
SIZE = len(DATA)
DIGEST = digests.of(DATA)
_HASHER = ChunkHasher()
_HASHER.update(DATA)
INDEX = _HASHER.index()
CHUNKS = Chunks(CHUNK, digests.of(INDEX))
COUNT = CHUNKS.count(SIZE)


def large_store(*, index: bytes = INDEX, data: bytes = DATA) -> MemoryStore:
    """The blob and its index, each under its right name whatever its bytes."""
    store = MemoryStore()
    store.blobs[DIGEST], store.blobs[CHUNKS.digest] = data, index
    return store


def flipped(number: int, data: bytes = DATA) -> bytes:
    """The blob with one wrong byte in one of its chunks."""
    at = number * CHUNK + 77
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def lying(number: int) -> tuple[bytes, Chunks]:
    """An index that has a wrong digest for a chunk, and how a list names it."""
    index = INDEX[: number * 16] + bytes(16) + INDEX[number * 16 + 16 :]
    return index, Chunks(CHUNK, Digest(digests.of(index)))
