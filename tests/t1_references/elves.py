"""ELF files for tests: a head, segments and a dynamic section, and no code."""

import struct
from collections.abc import Sequence

ORDERS = {"<": 1, ">": 2}


def elf(
    needed: Sequence[bytes] = (),
    interpreter: bytes | None = None,
    runpath: bytes | None = None,
    rpath: bytes | None = None,
    *,
    bits: int = 64,
    order: str = "<",
    kind: int = 3,
) -> bytes:
    """A library, or a program when it has an interpreter; addresses are 0x10000 above offsets."""
    base = 0x10000
    texts = bytearray(b"\0")

    def text(value: bytes) -> int:
        at = len(texts)
        texts.extend(value + b"\0")
        return at

    tags = [(1, text(name)) for name in needed]
    tags += [(29, text(runpath))] if runpath is not None else []
    tags += [(15, text(rpath))] if rpath is not None else []
    loader = None if interpreter is None else text(interpreter)
    head, one = (64, 56) if bits == 64 else (52, 32)
    count = 2 + (loader is not None)
    strings = head + count * one
    dynamic = strings + len(texts)
    tags += [(5, strings + base), (0, 0)]
    section = b"".join(struct.pack(order + ("qQ" if bits == 64 else "iI"), *tag) for tag in tags)

    def segment(what: int, at: int, size: int) -> bytes:
        if bits == 64:
            return struct.pack(order + "IIQQQQQQ", what, 4, at, at + base, 0, size, size, 1)
        return struct.pack(order + "8I", what, at, at + base, 0, size, size, 4, 1)

    size = dynamic + len(section)
    segments = segment(1, 0, size) + segment(2, dynamic, len(section))
    if loader is not None and interpreter is not None:
        segments += segment(3, strings + loader, len(interpreter) + 1)
    ident = b"\x7fELF" + bytes((bits // 32, ORDERS[order], 1)) + bytes(9)
    form = "HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"
    rest = struct.pack(order + form, kind, 62, 1, 0, head, 0, 0, head, one, count, 0, 0, 0)
    return ident + rest + segments + bytes(texts) + section
