"""Packs that an earlier version wrote are read for ever, and the manual shows the bytes of one."""

import re
from pathlib import Path

from aysfs import digest as digests
from aysfs.pack import PackIndex, expand, head_size, read_head

GOLDEN = Path(__file__).parent.parent / "golden" / "packs"
MANUAL = Path(__file__).parent.parent.parent / "docs" / "format.md"
START, TAIL = [b"hello\n", b""], [b"tail\n" * 1000, bytes(range(256))]


def test_the_golden_packs_give_their_blobs() -> None:
    index = PackIndex.decode((GOLDEN / "packs.index").read_bytes())
    packs = [(GOLDEN / name).read_bytes() for name in ("start.pack", "tail.pack")]
    assert index.has_start
    assert [one.digest for one in index.packs] == [digests.of(one) for one in packs]
    for number, content in enumerate([*START, *TAIL]):
        assert index.find(digests.of(content)) == number
        pack = packs[index.pack(number)]
        frame = pack[index.offset(number) :][: index.stored(number)]
        assert expand(frame, index.size(number)) == content


def test_the_pack_of_the_manual_is_the_golden_one() -> None:
    text = MANUAL.read_text()
    example = text[text.index("    61 79 73 66 73 70 6B 31 01") :].split("\n\n")[0]
    lines = re.findall(r"^    ((?:[0-9A-F]{2} )*[0-9A-F]{2})(?:  |$)", example, re.MULTILINE)
    data = bytes.fromhex(" ".join(lines))
    assert data == (GOLDEN / "start.pack").read_bytes()
    assert data[head_size(2) :].endswith(bytes.fromhex("28b52ffd2000010000"))
    assert [one.stored for one in read_head(data)] == [15, 9]
