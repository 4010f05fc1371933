"""From a list to its image in the cache.

Serves ``load`` and the overlay engine. Takes the memory of a tree while it works, and leaves none.
"""

from typing import BinaryIO

from aysfs.cache.images import CachedImage, ImageCache
from aysfs.cache.list_key import ListKey
from aysfs.flist.lineage import Resolve, host_id
from aysfs.image.compile import read_tree


def compile_list(
    images: ImageCache, key: ListKey, file: BinaryIO, source: str, resolve: Resolve = host_id
) -> CachedImage:
    """Read a list from its first byte and keep its image.

    Raises BadList, ImageRefused, and NoSpace or CacheUnusable when the image cannot be kept.
    """
    tree, facts = read_tree(file, source, key.mtime_ns, resolve)
    return images.put(key, tree, facts)
