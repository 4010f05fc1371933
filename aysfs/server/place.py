"""Where the files of a served store lie, and what may be named in a request.

Serves the handlers. Owns the root, the stores of its namespaces, and the rule that no name leads
out of it: every name has a grammar, and what was opened must lie below the root. A root that is not
the directory it was when the server began is trouble, never "not there": its disk is gone.
"""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException

from aysfs.digest import Digest
from aysfs.errors import BadConfig, StoreTrouble
from aysfs.store.directory import DirectoryStore
from aysfs.store.local import is_local

STATIC = "static"
RESERVED = frozenset(("store", STATIC, "health", "metrics"))

_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_STATIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class Opened(NamedTuple):
    """A regular file below the root; the descriptor is the receiver's."""

    fd: int
    status: os.stat_result


class Place:
    """The root of a served store."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        try:
            found = os.stat(self.root)
        except OSError as error:
            raise StoreTrouble(
                f"{root}: {error.strerror}", hint=f"`aysfs store init {root}` makes a store"
            ) from error
        if not stat.S_ISDIR(found.st_mode):
            raise BadConfig(f"{root}: not a directory")
        self._identity = found.st_dev, found.st_ino
        self._stores: dict[str, DirectoryStore] = {}
        self.is_local = is_local(self.root)

    def check(self) -> None:
        """StoreTrouble when the root is not what it was."""
        try:
            found = os.stat(self.root)
        except OSError as error:
            raise StoreTrouble(f"the store's root: {error.strerror}") from error
        if (found.st_dev, found.st_ino) != self._identity:
            raise StoreTrouble("the store's root is another directory than it was")

    def store(self, namespace: str) -> DirectoryStore:
        """The store of a namespace; 404 for what cannot be one."""
        self.check()
        known = self._stores.get(namespace)
        if known is not None:
            return known
        path = f"{self.root}/{check_namespace(namespace)}"
        if os.path.realpath(path) != path:
            raise HTTPException(404, "no such namespace")
        store = DirectoryStore(Path(self.root), namespace, create=True)
        if os.path.isdir(path):  # names that are only asked for take no memory
            self._stores[namespace] = store
        return store

    def has(self, namespace: str) -> bool:
        """Whether there is such a namespace."""
        self.check()
        return os.path.isdir(f"{self.root}/{check_namespace(namespace)}")

    def open(self, relative: str) -> Opened | None:
        """A file below the root; None where it is not there, or not a file, or elsewhere."""
        path = f"{self.root}/{relative}"
        try:
            fd = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            self.check()
            return None
        except OSError as error:
            if os.path.islink(path):
                return None
            raise StoreTrouble(f"{relative}: {error.strerror}") from error
        status = os.fstat(fd)
        inside = os.readlink(f"/proc/self/fd/{fd}").startswith(f"{self.root}/")
        if inside and stat.S_ISREG(status.st_mode):
            return Opened(fd, status)
        os.close(fd)
        return None


def check_namespace(name: str) -> str:
    """404 for what cannot be a namespace."""
    if name in RESERVED or ".." in name or not _NAMESPACE.fullmatch(name):
        raise HTTPException(404, "no such namespace")
    return name


def check_static(name: str) -> str:
    """404 for what cannot be the name of a file below /static/."""
    if ".." in name or not _STATIC_NAME.fullmatch(name):
        raise HTTPException(404, "no such file")
    return name


def parse_digest(text: object) -> Digest:
    """400 for what is no md5."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise HTTPException(400, "an md5 is 32 hexadecimal digits, in lower case")
    return Digest(bytes.fromhex(text))
