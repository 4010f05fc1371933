"""Coverage-guided fuzzing of the image reader. A process of its own, not a test of the suite:

    python tests/fuzz/fuzz_image.py -atheris_runs=200000 -max_len=20000

Without a corpus on the command line it starts from the images of the golden lists. Length and
checksum of the superblock are made to fit, or nothing would get past it. It ends with a crash
when reading all that an image offers ends in anything but its end or ImageDamaged.
"""

import io
import sys
import tempfile
from pathlib import Path

# Not among the packages of the tests, and without types where it is there.
# Untyped, and not in the environment of the tests.
import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["aysfs"]):
    from aysfs.errors import ImageDamaged
    from aysfs.flist import FlistReader
    from aysfs.image import DigestIndex, ImageTree, erofs, write_image
    from aysfs.tree import TreeBuilder

GOLDEN = Path(__file__).parent.parent / "golden" / "lists"


def seed(path: Path) -> bytes:
    """The image of a list."""
    builder, image = TreeBuilder(b"/"), io.BytesIO()
    with open(path, "rb") as file:
        builder.add(FlistReader(file, source=path.name, mtime_ns=0, resolve=lambda *_: None))
    write_image(builder.build(), image, io.BytesIO())
    return image.getvalue()


GOOD = seed(GOLDEN / "every-kind.flist")[1024:1152]


def one_input(data: bytes) -> None:
    """Read the bytes as an image, everything that it offers, and as an index."""
    changed = bytearray(data)
    if len(changed) >= erofs.BLOCK:
        if data[0] & 1:  # half of the time nothing is wrong with the superblock
            changed[1024:1152] = GOOD
        del changed[len(changed) // erofs.BLOCK * erofs.BLOCK :]
        changed[1060:1064] = (len(changed) // erofs.BLOCK).to_bytes(4, "little")
        changed[1028:1032] = bytes(4)
        checksum = erofs.superblock_checksum(changed[1024 : erofs.BLOCK])
        changed[1028:1032] = checksum.to_bytes(4, "little")
    try:
        image = ImageTree(bytes(changed), source="fuzz")
        for path, node in image.paths():
            image.attributes(node)
            image.digest(node)
            image.target(node)
            image.xattrs(node)
            image.rdev(node)
            image.path(node)
            image.lookup(image.parent(node), path.rpartition(b"/")[2])
    except ImageDamaged:
        pass
    try:
        index = DigestIndex(data)
        for record in index:
            index.find(record.digest)
    except ImageDamaged:
        pass


def main() -> None:
    """Hand over to atheris, which ends the process."""
    with tempfile.TemporaryDirectory() as corpus:  # seeds, and what is found
        arguments = sys.argv
        if all(argument.startswith("-") for argument in arguments[1:]):
            for path in GOLDEN.glob("*.flist"):
                (Path(corpus) / path.stem).write_bytes(seed(path))
            arguments = [*arguments, corpus]
        atheris.Setup(arguments, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
