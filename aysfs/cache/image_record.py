"""What is written down beside a tree image in the cache: facts of its list, and checksums.

Serves ``images`` (docs/format.md, "Cache"): eight digits of a checksum, and JSON on a line.
"""

import json
import mmap
import zlib
from typing import BinaryIO

from aysfs.errors import ImageDamaged
from aysfs.image.facts import Facts, facts_from

Checksums = list[tuple[int, int]]
"""Of image and index: length and crc32."""


def checksums_of(*files: BinaryIO) -> Checksums:
    """Of files that are written out."""
    found = []
    for file in files:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            found.append((len(mapped), zlib.crc32(mapped)))
    return found


def encode(facts: Facts, checksums: Checksums) -> bytes:
    """Facts and checksums as JSON, behind a checksum of their own."""
    text = json.dumps(facts.to_values() | {"checksums": checksums}).encode()
    return b"%08x\n%b\n" % (zlib.crc32(text), text)


def decode(data: bytes) -> tuple[Facts, Checksums]:
    """ImageDamaged when it is not what ``encode`` wrote; by a later version, any other error."""
    text = data[9:-1]
    if data != b"%08x\n%b\n" % (zlib.crc32(text), text):
        raise ImageDamaged("what is known of its list was altered")
    found = json.loads(text)
    return facts_from(found), [(length, crc) for length, crc in found["checksums"]]
