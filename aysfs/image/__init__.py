"""Tree images: a tree compiled into an EROFS file without data, and an index of its digests."""

from aysfs.image.index import DigestIndex, Record
from aysfs.image.reader import ImageTree
from aysfs.image.writer import WRITER_VERSION, write_image

__all__ = ["WRITER_VERSION", "DigestIndex", "ImageTree", "Record", "write_image"]
