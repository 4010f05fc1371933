"""Many blobs in one stream of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.store.frames import FRAME_LIMIT, BadFrame, FrameReader, frame_head

BLOBS = st.lists(st.binary(max_size=200), max_size=20)


def stream_of(blobs: list[bytes]) -> bytes:
    return b"".join(frame_head(digests.of(data), len(data)) + data for data in blobs)


def test_the_bytes_of_a_frame() -> None:
    head = "d41d8cd98f00b204e9800998ecf8427e" + "0000000000000005"
    assert frame_head(Digest(bytes.fromhex(head[:32])), 5).hex() == head


@given(BLOBS, st.lists(st.integers(1, 100), min_size=1))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    blobs: list[bytes], cuts: list[int]
) -> None:
    stream = stream_of(blobs)
    reader = FrameReader()
    found = []
    position = turn = 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        found += reader.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    reader.end()
    assert found == [(digests.of(data), data) for data in blobs]


@given(BLOBS.filter(bool), st.data())
def test_a_stream_that_ends_inside_a_frame_is_refused(
    blobs: list[bytes], data: st.DataObject
) -> None:
    last = stream_of(blobs[-1:])
    kept = data.draw(st.integers(1, len(last) - 1))
    reader = FrameReader()
    found = reader.feed(stream_of(blobs[:-1]) + last[:kept])
    assert len(found) == len(blobs) - 1
    with pytest.raises(BadFrame, match="inside a frame"):
        reader.end()


@pytest.mark.parametrize("size", [FRAME_LIMIT + 1, (1 << 64) - 1])
def test_a_frame_that_is_too_large_is_refused_before_its_bytes(size: int) -> None:
    with pytest.raises(BadFrame, match=str(size)):
        FrameReader().feed(frame_head(digests.of(b""), size))
