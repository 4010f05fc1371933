"""A new record of a start, published: merged with what is known, without what is gone.

Serves ``profile record`` and builds.
"""

import logging
from collections.abc import Collection, Iterable

from aysfs.digest import Digest
from aysfs.errors import BadProfile
from aysfs.names import ServiceName
from aysfs.profile import Profile, merge
from aysfs.store import layout
from aysfs.store.chain import members
from aysfs.store.profile import profile_note, read_profile, write_profile
from aysfs.store.protocol import Store

log = logging.getLogger(__name__)


async def publish_profile(
    store: Store, name: ServiceName, new: Profile, known: Collection[Digest]
) -> Profile:
    """Merge with the store's profile of a service, and keep that; what it is now.

    Only what is ``known``, the blobs of the list that the record is of, stays in it. Raises
    BadProfile where the store's is damaged.
    """
    before = await read_profile(store, name)
    merged = new if before is None else merge(before, new)
    merged = merged.only(known.__contains__)
    await write_profile(store, name, merged)
    return merged


async def publish_built(
    stores: Iterable[Store], name: ServiceName, new: Profile, known: Collection[Digest]
) -> None:
    """The same in each store of a build, which fails for no hint: a damaged one is replaced."""
    if not layout.is_note(profile_note(name)):  # too long a name
        return
    for store in (one for several in stores for one in members(several)):
        try:
            await publish_profile(store, name, new, known)
        except BadProfile as error:
            log.warning("%s, and is replaced", error)
            await write_profile(store, name, new)
