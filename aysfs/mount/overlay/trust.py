"""Which images root's kernel may read: those compiled here, and those of stores that are trusted.

Serves the overlay engine. Owns that question; nothing is mounted without ``check``. A store is
trusted for images when the configuration says so (``trust_images``) and the mount uses it. What
such a store gave is kept under an origin of its own, so that neither what any other store gave
to the fuse engine nor what a store gave that is trusted no more is ever taken for it.
"""

import hashlib
import logging
import os
from collections.abc import Sequence

from aysfs.cache.images import CachedImage, ImageCache
from aysfs.cache.list_key import OWN, ListKey
from aysfs.cache.taking import take_image
from aysfs.errors import MountFailed, StoreTrouble
from aysfs.mount.options import MountOptions
from aysfs.names import ServiceName
from aysfs.store.open import open_stores
from aysfs.store.tree_image import is_usable, read_image

log = logging.getLogger(__name__)


def origins(options: MountOptions) -> list[str]:
    """The origins of images that this mount may use, our own first."""
    return [OWN, *(_origin_of(options, url) for url in _trusted(options))]


def check(images: Sequence[CachedImage], options: MountOptions) -> None:
    """MountFailed when one of these must not be mounted."""
    allowed = origins(options)
    for image in images:
        if image.origin not in allowed:
            raise MountFailed(f"{image.path}: an image of a store that is not trusted for images")


async def take_trusted(
    images: ImageCache, key: ListKey, list_size: int, name: ServiceName, options: MountOptions
) -> CachedImage | None:
    """The image that the first of the trusted stores has of a list; None when none has one."""
    for url in _trusted(options):
        store = open_stores([url], namespace=options.namespace)
        try:
            found = await read_image(store, name)
            if found is None or not is_usable(found, key.sha256):
                continue
            origin, patience = _origin_of(options, url), options.deadline
            image = await take_image(
                images, key, list_size, found, store, origin=origin, deadline=patience
            )
            if image is not None:
                log.info("%s: the image of %s was taken from there", store.label, name)
                return image
        except StoreTrouble as error:
            log.info("%s: whether it has an image is not known: %s", store.label, error)
        finally:
            await store.aclose()
    return None


def _trusted(options: MountOptions) -> list[str]:
    return [url for url in options.store if url in options.trust_images]


def _origin_of(options: MountOptions, url: str) -> str:
    where = os.fsencode(f"{options.namespace}\n{url}")
    return f"trusted-{hashlib.sha256(where).hexdigest()[:32]}"
