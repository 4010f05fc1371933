"""What stores hold of a build: its record, its list, and all that the list names.

Serves builds, which skip what every store has whole.
"""

import hashlib
import io
from collections.abc import Iterable

import trio

from aysfs.build.record import Record, from_json, record_note
from aysfs.digest import Digest
from aysfs.errors import BadList, Missing
from aysfs.flist.entry import Kind
from aysfs.flist.text import FlistReader
from aysfs.names import ServiceName
from aysfs.store.protocol import Store


async def published(store: Store, name: ServiceName) -> Record | None:
    """The record beside a list that it speaks of, when all that the list names is there too."""
    try:
        record = from_json(await store.read_note(record_note(name)))
        opened = await store.open_list(name)
    except Missing:
        return None
    with opened.file:
        data = await trio.to_thread.run_sync(opened.file.read)
    if record is None or record.list_sha256 != hashlib.sha256(data).hexdigest():
        return None
    blobs = await trio.to_thread.run_sync(_blobs, data, opened.source)
    return None if blobs is None or await store.missing(blobs) else record


def _blobs(data: bytes, source: str) -> dict[Digest, int] | None:
    """Digest and size of what a list names; None when it is no list."""
    try:
        entries = FlistReader(io.BytesIO(data), source=source, mtime_ns=0)
        return {one.digest: one.size for one in entries if one.kind is Kind.REGULAR}
    except BadList:
        return None


async def write_notes(stores: Iterable[Store], note: str, data: bytes) -> None:
    """Keep a note in each store."""
    for store in stores:
        await store.write_note(note, data)
