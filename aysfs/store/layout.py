"""Where things lie in a store, as relative paths: for every store and every server of one.

Owns the names of blobs and lists below a store's root. Pure: no I/O, no URL quoting.
"""

import re

from aysfs.digest import Digest
from aysfs.errors import AysfsError, BadConfig, BadName
from aysfs.names import ServiceName, parse_name

DEFAULT_NAMESPACE = "dedupe"

NOTE_LIMIT = 1 << 20
"""Bytes that a note may have: it is read into memory whole."""

_SUFFIX = ".flist"
_NOTE = re.compile(r"[a-z0-9@_-][a-z0-9.@_-]{0,199}")


def check_namespace(namespace: str) -> str:
    """The namespace, when it can be one directory of a store; BadConfig for anything else."""
    if not namespace or namespace.startswith(".") or "/" in namespace or "\0" in namespace:
        raise BadConfig(
            f"`{namespace}` is no namespace", hint="a namespace is the name of one directory"
        )
    return namespace


def blob(namespace: str, digest: Digest) -> str:
    """Where a blob is written, and looked for first."""
    name = digest.hex()
    return f"{namespace}/{name[0]}/{name[1]}/{name}"


def old_blob(namespace: str, digest: Digest) -> str:
    """Where the older layout kept a blob: read, never written."""
    name = digest.hex()
    return f"{namespace}/files/{name[0]}/{name[1]}/{name}"


def list_directory(namespace: str) -> str:
    """The directory of all lists of a namespace."""
    return f"{namespace}/md"


def list_file(name: ServiceName) -> str:
    """The file name of a list."""
    return f"{name}{_SUFFIX}"


def list_path(namespace: str, name: ServiceName) -> str:
    """Where the list of a service, or the one under its tag, lies."""
    return f"{list_directory(namespace)}/{list_file(name)}"


def is_note(file_name: str) -> bool:
    """Whether a file beside the lists is a note, by its name."""
    if file_name.endswith(_SUFFIX) or ".." in file_name:
        return False
    return _NOTE.fullmatch(file_name) is not None


def note_path(namespace: str, name: str) -> str:
    """Where a note lies, beside the lists; BadName for what cannot be one's name."""
    if not is_note(name):
        raise BadName(
            f"`{name}` is no name of a note",
            hint="lower-case letters, digits, `.`, `@`, `_` and `-`, and no `.flist` at the end",
        )
    return f"{list_directory(namespace)}/{name}"


def check_note(name: str, data: bytes) -> None:
    """BadName, or AysfsError for more bytes than a note may have."""
    note_path(DEFAULT_NAMESPACE, name)
    if len(data) > NOTE_LIMIT:
        raise AysfsError(f"note {name}: {len(data)} bytes, and a note has at most {NOTE_LIMIT}")


def parse_list_file(file_name: str) -> ServiceName | None:
    """The service that a file of the list directory belongs to; None for foreign files."""
    full, suffix, rest = file_name.rpartition(_SUFFIX)
    if not suffix or rest or "__" not in full.partition("@")[0]:
        return None
    try:
        return parse_name(full)
    except BadName:
        return None
