"""A store that lies: for a list it has the image of another one."""

from aysfs.names import ServiceName
from aysfs.publish.image import send_image, sha256_of
from aysfs.store.claims import Claim
from aysfs.store.protocol import Store
from aysfs.store.tree_image import PublishedImage, image_note


async def forge_image(store: Store, name: ServiceName, shown: bytes) -> PublishedImage:
    """Let the note beside a list name the image of the list ``shown``."""
    opened = await store.open_list(name)
    with opened.file:
        sha256 = sha256_of([opened.file.read()])
    async with Claim(store) as claim:
        forged = await send_image([claim], [shown], sha256, 0)
        await claim.keep_note(image_note(name), forged.to_json())
    return forged
