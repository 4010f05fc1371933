"""Which directories are local, judged by the mount table alone."""

import os
import tempfile
from pathlib import Path

import pytest

from aysfs.store.local import LOCAL, is_local


def table(*mounts: tuple[str, str]) -> bytes:
    lines = [
        f"{number} 1 0:{number} / {point} rw,relatime shared:{number} master:1 - {kind} x rw\n"
        for number, (point, kind) in enumerate(mounts, 20)
    ]
    return "".join(lines).encode()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory that no link leads to."""
    made = tmp_path.resolve() / "store"
    made.mkdir()
    return made


def judge(top: Path, asked: Path, *mounts: tuple[str, str]) -> bool:
    file = top.parent / "mountinfo"
    file.write_bytes(table(("/", "ext4"), *mounts))
    return is_local(str(asked), file)


@pytest.mark.parametrize("kind", sorted(LOCAL))
def test_file_systems_of_this_host_are_local(top: Path, kind: bytes) -> None:
    assert judge(top, top, (str(top), kind.decode()))


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "fuse", "autofs", "9p", "?"])
def test_all_others_are_not(top: Path, kind: str) -> None:
    assert not judge(top, top, (str(top), kind))
    assert not judge(top, top, (str(top.parent), kind))


def test_the_deepest_and_the_last_mount_counts(top: Path) -> None:
    above, here = str(top.parent), str(top)
    assert not judge(top, top, (above, "nfs"), (here, "ext4"))  # reached through the network
    assert not judge(top, top, (here, "ext4"), (here, "nfs"))
    assert judge(top, top, (here, "nfs"), (here, "ext4"))
    assert judge(top, top, (here + "-other", "nfs"))


def test_a_network_below_is_not_local(top: Path) -> None:
    assert not judge(top, top, (f"{top}/a", "nfs"))


def test_a_link_is_judged_by_where_it_leads(top: Path) -> None:
    far = top.parent / "far"
    (far / "sub").mkdir(parents=True)
    mount = (str(far), "nfs")
    for name, target in {"absolute": str(far), "relative": "far", "up": "../x/far"}.items():
        (top.parent / name).symlink_to(target)
        assert not judge(top, top.parent / name / "sub", mount)
    (top.parent / "near").symlink_to("store")
    (top.parent / "twice").symlink_to(top.parent / "near")
    assert judge(top, top.parent / "twice", mount)
    (top / "a").symlink_to(far)
    assert not judge(top, top, mount)


def test_the_path_behind_a_network_mount_is_never_touched(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.readlink

    def readlink(path: bytes) -> str | bytes:
        assert not path.startswith(os.fsencode(top))
        return real(path)

    monkeypatch.setattr(os, "readlink", readlink)
    assert not judge(top, top / "dedupe", (str(top), "nfs"))


def test_a_name_with_spaces_is_found(top: Path) -> None:
    spaced = top / "a b"
    spaced.mkdir()
    assert not judge(top, spaced, (f"{top}/a\\040b", "nfs"))


def test_doubt_is_not_local(top: Path) -> None:
    assert not judge(top, top / "absent")
    assert not is_local(str(top), top / "no-table")
    (top / "loop").symlink_to("loop")
    assert not judge(top, top / "loop")


def test_the_real_table_is_understood() -> None:
    assert not is_local("/proc")
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as in_memory,
        tempfile.TemporaryDirectory(dir="/tmp") as on_disk,
        tempfile.TemporaryDirectory(dir="/var/lib") as beside,
    ):
        assert any(map(is_local, [in_memory, on_disk, beside]))
