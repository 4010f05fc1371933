"""No archive that is cut off, damaged or climbs out gives a list."""

import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs.errors import AysfsError, BuildFailed
from aysfs.flist.text import write_flist
from tests.t3_publish.tars import gathered, made, member


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (member("/b/x"), "`/b/x` is absolute"),
        (member("b/../../x"), "climbs out"),
        (member("c"), "`c` is not below `b`"),
        (member("b/s", tarfile.CHRTYPE), "/b/s: a device 0:0 cannot be in a list"),
        (member("b/s", b"Q"), "unknown type b'Q'"),
        (member("b/s", pax_headers={"mtime": "nan"}), "mtime is no time"),
        (member("b/s", pax_headers={"GNU.sparse.major": "1"}), "a sparse member"),
        (member("b/s", tarfile.LNKTYPE, linkname="b"), "is a link to `/b`"),
    ],
)
def test_members_that_are_refused(info: tarfile.TarInfo, reason: str) -> None:
    with pytest.raises(BuildFailed, match=reason):
        gathered((made(member("b", tarfile.DIRTYPE), info), b"/b"))


def test_nothing_at_all() -> None:
    with pytest.raises(BuildFailed, match="nothing was uploaded"):
        gathered()
    with pytest.raises(BuildFailed, match="/b does not hold it"):
        gathered((made(), b"/b"))


WHOLE = made(
    member("b", tarfile.DIRTYPE, mode=0o755),
    member("b/file", size=700, pax_headers={"mtime": "1.5", "SCHILY.xattr.user.a": "x"}),
    member("b/link", tarfile.LNKTYPE, linkname="b/file"),
    member("b/symlink", tarfile.SYMTYPE, linkname="file"),
)
END = len(WHOLE.rstrip(b"\0")) // 512 * 512 + 512  # of the last member


@pytest.mark.parametrize("length", [0, 100, 512, 1024, END - 512, END, END + 512, END + 1000])
def test_an_archive_that_is_cut_off(length: int) -> None:
    assert gathered((WHOLE[: END + 1024], b"/b"))
    with pytest.raises(BuildFailed, match="no whole archive: it is cut off"):
        gathered((WHOLE[:length], b"/b"))


def outcome(archive: bytes) -> bytes | None:
    """The list of an archive, None when it was refused as it should be."""
    try:
        return b"".join(write_flist(*gathered((archive, b"/b"))))
    except AysfsError:
        return None


@given(st.data())
def test_a_damaged_archive_is_refused_or_gives_a_valid_list(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE[: END + 1024])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    outcome(bytes(damaged))


@given(st.data())
def test_a_damaged_header_with_a_right_checksum(data: st.DataObject) -> None:
    archive = bytearray(WHOLE[: END + 1024])
    header = data.draw(st.sampled_from(range(0, END, 512)))
    for _ in range(data.draw(st.integers(1, 6))):
        archive[header + data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    block = archive[header : header + 512]
    block[148:156] = b" " * 8
    archive[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    outcome(bytes(archive))


@given(st.binary(max_size=2048))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BuildFailed):
        gathered((data, b"/b"))


@given(st.binary(max_size=300))
def test_garbage_in_an_extended_header(data: bytes) -> None:
    header = bytearray(member("x", b"x", size=len(data)).tobuf(tarfile.USTAR_FORMAT))
    archive = bytes(header) + data + bytes(-len(data) % 512) + WHOLE
    outcome(archive)
