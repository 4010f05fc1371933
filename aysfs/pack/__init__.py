"""Packs: many small blobs in one object, each a zstd frame of its own, and the index of them.

Pure; serves who makes packs and who reads blobs out of them. The bytes are docs/format.md,
"Packs". Nothing here compares a blob with its digest: whoever takes a blob out of a pack does.
"""

from aysfs.errors import PackDamaged
from aysfs.pack.expand import expand, expand_to
from aysfs.pack.format import Columns, Entry, head_size, read_head, write_pack
from aysfs.pack.frame import compress, compress_all
from aysfs.pack.index import PackIndex, PackInfo

__all__ = [
    "Columns",
    "Entry",
    "PackDamaged",
    "PackIndex",
    "PackInfo",
    "compress",
    "compress_all",
    "expand",
    "expand_to",
    "head_size",
    "read_head",
    "write_pack",
]
