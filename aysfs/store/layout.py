"""Where things lie in a store, as relative paths: for every store and every server of one.

Owns the names of blobs and lists below a store's root. Pure: no I/O, no URL quoting.
"""

import re
from collections.abc import Iterable

from aysfs.digest import Digest
from aysfs.errors import AysfsError, BadConfig, BadName
from aysfs.names import ServiceName, parse_name

DEFAULT_NAMESPACE = "dedupe"

NOTE_LIMIT = 1 << 20
"""Bytes that a note may have: it is read into memory whole."""

_SUFFIX = ".flist"
_IMAGE = ".image"
_PACKS = ".packs"
_PROFILE = ".profile"
_CLAIM = r"\.gc|\.push-[0-9a-f-]{1,64}"
_NOTE = re.compile(rf"{_CLAIM}|[a-z0-9@_-][a-z0-9.@_-]{{0,199}}")
_BLOB = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{12}[0-9]+\.tmp")


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


def is_claim(note: str) -> bool:
    """Whether a note is one by which pushes and a gc keep out of each other's way."""
    return re.fullmatch(_CLAIM, note) is not None


def image_note(name: str) -> str:
    """The note that tells of the tree image of a list, by the full name of the service."""
    return f"{name}{_IMAGE}"


def packs_note(name: str) -> str:
    """The note that tells of the packs of a list, by the full name of the service."""
    return f"{name}{_PACKS}"


def profile_note(name: str) -> str:
    """The note that says what a start of a service reads, by its full name."""
    return f"{name}{_PROFILE}"


def is_of_a_list(note: str) -> bool:
    """Whether a note tells of what belongs to a list. Who pushes must see what it replaces."""
    return note.endswith((_IMAGE, _PACKS, _PROFILE))


def outlives_a_crash(note: str) -> bool:
    """Whether a note must be durable. A claim need not: it speaks for a process that runs."""
    return not is_claim(note)


def shelves(namespace: str, first: int) -> tuple[str, str]:
    """The directories, in either layout, of all blobs whose digest begins with this byte."""
    below = f"{first:02x}"
    return (
        f"{namespace}/{below[0]}/{below[1]}",
        f"{namespace}/files/{below[0]}/{below[1]}",
    )


def is_stray(file_name: str) -> bool:
    """Whether a file beside the lists is neither a list nor a note."""
    return parse_list_file(file_name) is None and not is_note(file_name)


def parse_blob_file(file_name: str, first: int) -> Digest | None:
    """The digest that a file on a shelf is named by; None for foreign files."""
    if _BLOB.fullmatch(file_name) is None:
        return None
    digest = Digest(bytes.fromhex(file_name))
    return digest if digest[0] == first else None


def temporary(file_name: str, random: str, number: int) -> str:
    """The name under which a file is written before it is whole, at the top of the namespace.

    ``random`` are the 12 hexadecimal digits of one writer.
    """
    return f".{file_name}.{random}{number}.tmp"


def is_temporary(path: str) -> bool:
    """Whether a stray, by its name, is what a writer did not finish."""
    return _TEMPORARY.fullmatch(path) is not None


def check_temporaries(paths: Iterable[str]) -> None:
    """BadName for what may be anything else."""
    for path in paths:
        if not is_temporary(path):
            raise BadName(f"`{path}` is no temporary file of a store")


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
