"""Stores for the commands that write. Apart from ``session``: who only reads imports less."""

import os
from collections.abc import Sequence

from aysfs.cli.config import Settings
from aysfs.errors import StoreTrouble
from aysfs.store.open_to_write import open_stores
from aysfs.store.protocol import Store


def open_to_write(settings: Settings, urls: Sequence[str], *, given: bool) -> Store:
    """Stores that are made where they are not there yet, unless a path may be a mistake.

    What stands in a configuration was written once and with care; a path on the command line
    that is no directory is sooner mistyped than new.
    """
    for url in urls:
        if given and "://" not in url and not os.path.isdir(url):
            raise StoreTrouble(
                f"there is no store {url}", hint=f"`aysfs store init {url}` makes one"
            )
    return open_stores(urls, namespace=settings.namespace, create=True)
