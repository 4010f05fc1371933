"""Notes that count only while the list that they speak of is the list under their name.

Serves tree images and packs. Owns how such a note is read, and how it goes with its list: withdrawn
when another list is published, and removed after its list was.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aysfs.errors import NoteMissing
from aysfs.store import layout
from aysfs.store.chain import members
from aysfs.store.claims import Claim
from aysfs.store.protocol import Store

WITHDRAWN = b'{"version": 1}\n'

T = TypeVar("T")
Parse = Callable[[bytes], T | None]
"""What a note says; None for one that says nothing that is understood."""


async def read(store: Store, note: str, parse: Parse[T]) -> T | None:
    """What a store's note says, be it of another list than now; None where it has none."""
    if not layout.is_note(note):  # too long a name
        return None
    try:
        return parse(await store.read_note(note))
    except NoteMissing:
        return None


async def keep(
    claim: Claim,
    note: str,
    new: bytes | None,
    parse: Parse[T],
    counts: Callable[[Store, T], Awaitable[bool]],
) -> bool:
    """What to do under a claim before a list is published: the note will speak of it or of none.

    Without a ``new`` note one that ``counts`` in its store stays: it speaks of the very same list,
    and all that it names is there. Any other is withdrawn: a gc takes what it names, and the list
    of which it speaks may come back. Whether one was.
    """
    if new is not None:
        await claim.keep_note(note, new)
        return False
    for store in members(claim.store):
        found = await read(store, note, parse)
        if found is not None and not await counts(store, found):
            await claim.keep_note(note, WITHDRAWN)
            return True
    return False


async def delete(store: Store, note: str) -> None:
    """Have no such note, withdrawn or not, after its list was deleted."""
    if not layout.is_note(note):
        return
    for one in members(store):
        try:
            await one.read_note(note)
        except NoteMissing:
            continue
        await one.delete_note(note)
