"""What a path, an attribute and an ext column may be, whatever the line looked like.

Serves the readers of both list generations. Every rule is here once, and every refusal is
Malformed with a reason for people. Rules that need more than one entry (a file that is also a
directory, a hard link's first name that does not exist) are the tree's.
"""

import re

from aysfs.flist.entry import Ext, Kind
from aysfs.flist.percent import Malformed, decode_ext, encode_ext, encode_path

MAX_SIZE = 2**63 - 1
MAX_ID = 2**32 - 2  # 2**32 - 1 means "leave unchanged" to chown
MIN_TIME_NS, MAX_TIME_NS = -(2**63), 2**63 - 1
MAX_NAME = 255
MAX_TARGET = 4095
MAX_XATTR_VALUE = 65536

DEVICES = (Kind.BLOCK, Kind.CHARACTER)

_RDEV = re.compile(rb"(0|[1-9][0-9]{0,3}),(0|[1-9][0-9]{0,6})").fullmatch
_SHA256 = re.compile(rb"[0-9a-f]{64}").fullmatch
_CHUNKS = re.compile(rb"([1-9][0-9]{0,18}),[0-9a-f]{32}").fullmatch
_ONLY_FOR = {
    b"target": ("symlinks", (Kind.SYMLINK,)),
    b"rdev": ("devices", DEVICES),
    b"hardlink": ("regular files", (Kind.REGULAR,)),
    b"sha256": ("regular files", (Kind.REGULAR,)),
    b"chunks": ("regular files", (Kind.REGULAR,)),
}


def check_path(path: bytes) -> None:
    """Refuse a decoded path that is not absolute and in its shortest form."""
    if not path.startswith(b"/"):
        raise Malformed("relative path")
    if b"\0" in path:
        raise Malformed("NUL in the path")
    if path == b"/":
        return
    if path.endswith(b"/"):
        raise Malformed("trailing slash in the path")
    for name in path[1:].split(b"/"):
        if name in (b"", b".", b".."):
            raise Malformed(f"`{name.decode() or '//'}` in the path")
        if len(name) > MAX_NAME:
            raise Malformed(f"a name of {len(name)} bytes, over {MAX_NAME}")


def check_rdev(value: bytes) -> None:
    """Refuse what is not ``major,minor`` in the kernel's bounds. 0,0 is overlayfs's whiteout."""
    found = _RDEV(value)
    if not found or int(found[1]) >= 2**12 or int(found[2]) >= 2**20:
        raise Malformed("bad device number: `major,minor`, below 4096 and 1048576")
    if value == b"0,0":
        raise Malformed("device 0,0: overlayfs takes it for a deleted file")


def check_target(value: bytes) -> None:
    """Refuse a symlink target that no kernel would store."""
    if not value:
        raise Malformed("a symlink without target")
    if b"\0" in value:
        raise Malformed("NUL in a symlink target")
    if len(value) > MAX_TARGET:
        raise Malformed(f"a symlink target of {len(value)} bytes, over {MAX_TARGET}")


def parse_ext(text: bytes) -> Ext:
    """The pairs of an ext column, decoded."""
    if not text:
        return ()
    pairs = []
    previous = b""
    for part in text.split(b"&"):
        name, equals, value = part.partition(b"=")
        key = decode_ext(name)
        if not key or not equals:
            raise Malformed("ext is not `key=value` pairs joined by `&`")
        if key <= previous:
            raise Malformed(
                f"ext {'key twice' if key == previous else 'keys not sorted'}: {show(key)}"
            )
        pairs.append((key, decode_ext(value)))
        previous = key
    return tuple(pairs)


def format_ext(ext: Ext) -> bytes:
    """The ext column of these pairs."""
    return b"&".join(b"%s=%s" % (encode_ext(key), encode_ext(value)) for key, value in ext)


def check_ext(path: bytes, kind: int, ext: Ext) -> None:
    """Refuse an ext that does not belong to this kind, or a known key with a bad value."""
    keys = {key for key, _ in ext}
    if kind == Kind.SYMLINK and b"target" not in keys:
        raise Malformed("a symlink without target")
    if kind in DEVICES and b"rdev" not in keys:
        raise Malformed("a device without rdev")
    for key, value in ext:
        rule = _ONLY_FOR.get(key)
        if rule and kind not in rule[1]:
            raise Malformed(f"ext `{key.decode()}` is only for {rule[0]}")
        if key == b"target":
            check_target(value)
        elif key == b"rdev":
            check_rdev(value)
        elif key == b"hardlink":
            _check_hardlink(path, value)
        elif key == b"sha256" and not _SHA256(value):
            raise Malformed("bad sha256: 64 lower-case hexadecimal digits")
        elif key == b"chunks":
            _check_chunks(value)
        elif key.startswith(b"xattr."):
            _check_xattr(key[6:], value)


def _check_hardlink(path: bytes, first: bytes) -> None:
    check_path(first)
    if encode_path(first) >= encode_path(path):
        raise Malformed("hardlink does not name an earlier path")


def _check_chunks(value: bytes) -> None:
    found = _CHUNKS(value)
    if not found or int(found[1]) > MAX_SIZE:
        raise Malformed("bad chunks: `size,md5` of an index blob")


def _check_xattr(name: bytes, value: bytes) -> None:
    # `trusted.overlay.*` in a list would let it redirect any file: never accept it.
    if name != b"security.capability" and (not name.startswith(b"user.") or name == b"user."):
        raise Malformed(f"xattr {show(name)}: only user.* and security.capability are allowed")
    if b"\0" in name or len(name) > MAX_NAME or len(value) > MAX_XATTR_VALUE:
        raise Malformed(f"xattr {show(name)} is over the kernel's bounds")


def show(raw: bytes) -> str:
    """Bytes for a message: readable, bounded, harmless to a terminal."""
    text = raw[:200].decode("utf-8", "backslashreplace")
    return "`" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + "`"
