"""Coverage-guided fuzzing of what reads packs. A process of its own, not a test of the suite:

    python tests/fuzz/fuzz_pack.py -atheris_runs=200000 -max_len=4000

The first byte chooses: bytes as an index blob, the same compressed first, or as a pack. It ends
with a crash when reading all that is offered ends in anything but its end or PackDamaged.
"""

import sys
import tempfile
from pathlib import Path

# Not among the packages of the tests, and without types where it is there.
# Untyped, and not in the environment of the tests.
import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["aysfs"]):
    from aysfs import digest as digests
    from aysfs.errors import PackDamaged
    from aysfs.pack import (
        Columns,
        Entry,
        PackIndex,
        compress,
        expand,
        expand_to,
        head_size,
        read_head,
        write_pack,
    )
    from aysfs.pack.index import Pack


def seeds() -> list[bytes]:
    """An index, one that is not compressed, one with references likewise, and a pack."""
    contents = [b"", b"a", b"b" * 300, bytes(range(256))]
    frames = [compress(one) for one in contents]
    columns = Columns(
        Entry(digests.of(one), len(one), len(frame))
        for one, frame in zip(contents, frames, strict=True)
    )
    pack = b"".join(write_pack(columns, frames))
    made = Pack(digests.of(pack), len(pack), columns)
    index = PackIndex.join([made], has_start=True).encode()
    known = [one.digest for one in columns]
    references = {one: known[at:] for at, one in enumerate(known)}
    referring = PackIndex.join([made], has_start=True, references=references).encode()
    return [
        b"\0" + index,
        b"\1" + expand(index, 24 + 28 + 4 * 32),
        b"\1" + expand(referring, 24 + 28 + 4 * 33 + 10 * 4),
        b"\2" + pack,
    ]


def one_input(data: bytes) -> None:
    """Read the bytes as what the first of them says."""
    kind, rest = data[:1], data[1:]
    try:
        if kind == b"\2":
            read_pack(rest)
        else:
            read_index(compress(rest) if kind == b"\1" else rest)
    except PackDamaged:
        pass


def read_index(data: bytes) -> None:
    """All that an index says."""
    index = PackIndex.decode(data)
    for at in range(len(index)):
        found = index.find(index.digest(at))
        assert found is not None
        assert index.digest(found) == index.digest(at)
        assert index.offset(at) + index.stored(at) <= index.packs[index.pack(at)].size
        assert all(0 <= one < len(index) for one in index.references(at))
    assert PackIndex.decode(index.encode()).packs == index.packs


def read_pack(data: bytes) -> None:
    """All blobs of a pack, both ways."""
    entries = read_head(data)
    at = head_size(len(entries))
    for one in entries:
        frame, at = data[at : at + one.stored], at + one.stored
        pieces: list[bytes] = []
        expand_to(frame, one.size, pieces.append)
        assert sum(map(len, pieces)) == one.size
        assert expand(frame, one.size) == b"".join(pieces)


def main() -> None:
    """Hand over to atheris, which ends the process."""
    with tempfile.TemporaryDirectory() as corpus:  # seeds, and what is found
        arguments = sys.argv
        if all(argument.startswith("-") for argument in arguments[1:]):
            for number, data in enumerate(seeds()):
                (Path(corpus) / f"seed-{number}").write_bytes(data)
            arguments = [*arguments, corpus]
        atheris.Setup(arguments, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
