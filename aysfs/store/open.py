"""The one place where addresses become a store.

Serves the command line and configuration; owns the table of schemes. Opens no connection:
a store that does not answer says so when it is asked. What is opened here is for reading; who
writes, or looks after a store, has ``open_to_write``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aysfs.errors import BadConfig
from aysfs.store import layout
from aysfs.store.chain import Chain, members
from aysfs.store.directory import THREADS, DirectoryStore
from aysfs.store.http import HttpStore
from aysfs.store.http_address import SCHEMES as HTTP_SCHEMES
from aysfs.store.http_address import HttpAddress, parse_http_address
from aysfs.store.objects import ObjectsStore
from aysfs.store.objects_address import SCHEMES as OBJECT_SCHEMES
from aysfs.store.objects_address import parse_object_address
from aysfs.store.protocol import Store
from aysfs.store.ssh import THREADS as CHANNELS
from aysfs.store.ssh import SshStore
from aysfs.store.ssh_address import SCHEMES, SshCredentials, parse_address, without_password

KNOWN = (
    "a path, file:///path, http(s)://host/path, ssh://login@host:port/path,"
    " s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"
)


OpenHttp = Callable[[HttpAddress, str], Store]
"""Makes the store at an address, in a namespace."""


def open_stores(
    urls: Sequence[str],
    *,
    namespace: str = layout.DEFAULT_NAMESPACE,
    create: bool = False,
    http: OpenHttp = HttpStore,
) -> Store:
    """What these addresses are together: the one store, or a chain of them in this order."""
    stores = [open_store(url, namespace=namespace, create=create, http=http) for url in urls]
    return stores[0] if len(stores) == 1 else Chain(stores)


def side_by_side(store: Store) -> int:
    """How many blobs it gives at once. One more would wait for its turn inside of a store, and
    that looks like a store that gives nothing.
    """
    return min(CHANNELS if isinstance(one, SshStore) else THREADS for one in members(store))


def open_store(
    url: str,
    *,
    namespace: str = layout.DEFAULT_NAMESPACE,
    create: bool = False,
    credentials: SshCredentials | None = None,
    http: OpenHttp = HttpStore,
) -> Store:
    """The store at this address. ``create`` lets a writer make a store that is not there yet.

    ``credentials`` are for a host reached over SSH, where the person's own are not meant.
    """
    if "://" not in url:
        if not url:
            raise BadConfig("a store needs an address", hint=f"known: {KNOWN}")
        return DirectoryStore(Path(url).expanduser(), namespace, create=create)
    if url.partition("://")[0].lower() in SCHEMES:
        address = parse_address(url)
        return SshStore(address, namespace, create=create, credentials=credentials)
    if url.partition("://")[0].lower() in HTTP_SCHEMES:
        return http(parse_http_address(url), namespace)
    if url.partition("://")[0].lower() in OBJECT_SCHEMES:
        return ObjectsStore(parse_object_address(url), namespace)
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise BadConfig(f"no store can be opened at `{parts.scheme}://`", hint=f"known: {KNOWN}")
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise BadConfig(f"`{without_password(url)}` names no directory", hint="write file:///path")
    return DirectoryStore(Path(unquote(parts.path)), namespace, create=create)
