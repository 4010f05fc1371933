"""Profiles that stores hold: the note beside a list, `<service>.profile`.

Serves whoever publishes, looks after or uses them. Unlike a tree image a profile is of no
particular list: it stays when the list is replaced, and goes when the list goes.
"""

import logging

from aysfs.errors import BadProfile, NoteMissing
from aysfs.names import ServiceName
from aysfs.profile import Profile, parse
from aysfs.store import layout
from aysfs.store.protocol import Store

log = logging.getLogger(__name__)


def profile_note(name: ServiceName) -> str:
    """Where the profile of a service is, among the notes of a store."""
    return layout.profile_note(str(name))


async def read_profile(store: Store, name: ServiceName) -> Profile | None:
    """The profile that a store has of a service, None where it has none.

    BadProfile for one that is damaged: whoever only wants a hint goes on without.
    """
    note = profile_note(name)
    if not layout.is_note(note):  # too long a name
        return None
    try:
        data = await store.read_note(note)
    except NoteMissing:
        return None
    return parse(data, f"{store.label}: {note}")


async def write_profile(store: Store, name: ServiceName, profile: Profile) -> None:
    """Keep the profile of a service. BadName where its name is too long for one of a note."""
    await store.write_note(profile_note(name), profile.to_bytes())


async def copy_profile(
    source: Store, name: ServiceName, target: Store, new_name: ServiceName
) -> None:
    """Let a service have the profile of another; of one without, or with a damaged one, nothing."""
    try:
        profile = await read_profile(source, name)
    except BadProfile as error:
        log.warning("%s: its profile is not copied: %s", name, error)
        return
    if profile is not None and layout.is_note(profile_note(new_name)):
        await write_profile(target, new_name, profile)


async def delete_profile(store: Store, name: ServiceName) -> None:
    """Have no profile under this name, after its list was deleted."""
    note = profile_note(name)
    if layout.is_note(note):
        await store.delete_note(note)
