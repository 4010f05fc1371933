"""Lists of files with given contents."""

from aysfs import digest as digests
from aysfs.flist.entry import Entry, Kind
from aysfs.flist.text import write_flist


def entry(path: bytes, data: bytes, *ext: tuple[bytes, bytes]) -> Entry:
    return Entry(path, Kind.REGULAR, 0o644, 0, 0, len(data), digests.of(data), 0, ext)


def listed(*files: bytes) -> bytes:
    """A list of files with these contents."""
    entries = [entry(b"/%04d" % number, data) for number, data in enumerate(files)]
    return b"".join(write_flist(None, entries))
