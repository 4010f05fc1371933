"""What a container sees of a mounted tree: attributes, digests and link targets of paths.

Serves verification. Two ways with the same answers: the container's own sh and coreutils, or
where they are missing its mount namespace, entered by a process of ours (``aysfs.build.enter``;
as root, and only where the engine is this host's). Whatever cannot be looked at is left out of
the answer. Answers end each record with a NUL, as names may hold newlines.
"""

import io
import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from aysfs.build.container import Container
from aysfs.errors import BuildFailed, ServerTrouble

_BATCH = 100_000  # bytes of names on one command line; the kernel allows 128 KiB an argument
_SCRIPT = ".aysfs-view"

# Side by side: a daemon that always has a request waiting answers it in a third of the time.
_READERS = 8
STAT = "%f %u %g %s %t %T %n"


class Seen(NamedTuple):
    """Attributes of one path: ``st_mode``, owner, size in bytes, and the number of a device."""

    mode: int
    uid: int
    gid: int
    size: int
    rdev: tuple[int, int]


class View(Protocol):
    """A way to look."""

    def stat(self, paths: Sequence[bytes]) -> dict[bytes, Seen]:
        """Attributes, links not followed."""

    def md5(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        """Digests of regular files."""

    def targets(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        """Where symlinks point."""


def choose_view(container: Container) -> View:
    """The container's coreutils where it has them, else its namespace."""
    if _has_coreutils(container):
        return Coreutils(container)
    if os.geteuid() != 0:
        raise ServerTrouble(
            f"{container}: its image has no coreutils, and only root can look in without them"
        )
    return Entered(container)


def _has_coreutils(container: Container) -> bool:
    try:
        code, said = container.output(["stat", "--printf=%n", "/"])
        return (
            code == 0 and said == b"/" and container.output(["md5sum", "-z", "/dev/null"])[0] == 0
        )
    except ServerTrouble:  # no such program: Docker itself cannot start it
        return False


class Coreutils:
    """Looks with the programs of the image. One script a question, many names a command."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def stat(self, paths: Sequence[bytes]) -> dict[bytes, Seen]:
        return parse_stat(self._run(f"stat --printf='{STAT}\\0' --", paths))

    def md5(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        return parse_md5(self._run("md5sum -z --", paths))

    def targets(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        found = self._run("readlink -z --", paths).split(b"\0")[:-1]
        if len(found) == len(paths):
            return dict(zip(paths, found, strict=True))
        if len(paths) == 1:
            return {}
        # One of them is no link, and the answer does not say which.
        return {path: link for one in paths for path, link in self.targets([one]).items()}

    def _run(self, command: str, paths: Sequence[bytes]) -> bytes:
        if not paths:
            return b""
        share = -(-len(paths) // _READERS)
        parts = [paths[at : at + share] for at in range(0, len(paths), share)]
        self._container.put(_scripts(command.encode(), parts))
        names = [f"/{_SCRIPT}.{number}" for number in range(len(parts))]
        # A path that is gone is what we are looking for: neither its code nor its words count.
        starts = [f"sh {name} >{name}.out 2>/dev/null &" for name in names]
        outs = " ".join(f"{name}.out" for name in names)
        script = "\n".join([*starts, "wait", f"cat {outs}"])
        code, said = self._container.output(["sh", "-c", script])
        if code:
            raise BuildFailed(f"{self._container}: looking at the tree ended with {code}")
        return said


class Entered:
    """Looks from a process of ours inside the mount namespace of the container."""

    def __init__(self, container: Container) -> None:
        self._pid = container.pid()

    def stat(self, paths: Sequence[bytes]) -> dict[bytes, Seen]:
        return parse_stat(self._run("stat", paths))

    def md5(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        return parse_md5(self._run("md5", paths))

    def targets(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        found = self._run("targets", paths).split(b"\0")[:-1]
        return dict(zip(found[::2], found[1::2], strict=True))

    def _run(self, question: str, paths: Sequence[bytes]) -> bytes:
        command = [sys.executable, "-m", "aysfs.build.enter", str(self._pid), question]
        done = subprocess.run(command, input=b"\0".join(paths), capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise ServerTrouble(f"the namespace of process {self._pid} cannot be entered: {reason}")
        return done.stdout


def parse_stat(data: bytes) -> dict[bytes, Seen]:
    """Records of the form STAT, hexadecimal where stat(1) is."""
    found: dict[bytes, Seen] = {}
    for record in data.split(b"\0")[:-1]:
        mode, uid, gid, size, major, minor, path = record.split(b" ", 6)
        number = (int(major, 16), int(minor, 16))
        found[path] = Seen(int(mode, 16), int(uid), int(gid), int(size), number)
    return found


def parse_md5(data: bytes) -> dict[bytes, bytes]:
    """Records as md5sum(1) writes them."""
    records = [record for record in data.split(b"\0") if record]
    return {record[34:]: bytes.fromhex(record[:32].decode()) for record in records}


def _batches(paths: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for path in paths:
        if batch and size + len(path) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += len(path) + 3
    yield batch


def _quoted(path: bytes) -> bytes:
    return os.fsencode(shlex.quote(os.fsdecode(path)))


def _scripts(command: bytes, parts: Sequence[Sequence[bytes]]) -> bytes:
    """A tar of one script for each part, many paths on a line."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, paths in enumerate(parts):
            lines = [command + b" " + b" ".join(map(_quoted, few)) for few in _batches(paths)]
            data = b"\n".join(lines)
            item = tarfile.TarInfo(f"{_SCRIPT}.{number}")
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    return out.getvalue()
