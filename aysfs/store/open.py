"""The one place where an address becomes a store.

Serves the command line and configuration; owns the table of schemes. Opens no connection:
a store that does not answer says so when it is asked.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from aysfs.errors import BadConfig
from aysfs.store import layout
from aysfs.store.directory import DirectoryStore
from aysfs.store.protocol import Store

KNOWN = "a path, file:///path"


def open_store(
    url: str, *, namespace: str = layout.DEFAULT_NAMESPACE, create: bool = False
) -> Store:
    """The store at this address. ``create`` lets a writer make a store that is not there yet."""
    if "://" not in url:
        if not url:
            raise BadConfig("a store needs an address", hint=f"known: {KNOWN}")
        return DirectoryStore(Path(url).expanduser(), namespace, create=create)
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise BadConfig(f"no store can be opened at `{parts.scheme}://`", hint=f"known: {KNOWN}")
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise BadConfig(f"`{url}` names no directory", hint="write file:///path")
    return DirectoryStore(Path(unquote(parts.path)), namespace, create=create)
