"""Files of this host merged into a folder of a container, as one tar.

Serves ``placing``. Docker's own unpacking replaces whatever is in the way, a folder by a file
and a link to a folder by a folder: so what is there is asked for first, and refused. Needs sh,
find, and the usual small programs in the container.
"""

import os
import stat
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from posixpath import basename, dirname, join
from typing import IO, BinaryIO, cast

from aysfs.build.container import Container
from aysfs.errors import BuildFailed

_SPOOL = 8 << 20  # bytes of a tar that stay in memory
_WORDS = 60_000  # characters of names on one command line

_MAKE = """umask 022
if [ -d "$1" ]; then there=old; else mkdir -p -- "$1" || exit; there=new; fi
cd -P -- "$1" && echo $there && pwd -P"""

_LOOK = """cd -P -- "$1" || exit
shift
for name; do
    [ -e "./$name" ] || [ -L "./$name" ] || continue
    find "./$name" -xdev \\( -type d -exec printf 'd%s\\0' {} + \\) \\
        -o -exec printf 'f%s\\0' {} + || exit
done"""

_LINK = """umask 022
mkdir -p -- "$2" || exit
if [ -e "$3" ] || [ -L "$3" ]; then
    [ "$5" = True ] || exit 0
    rm -rf -- "$3" || exit
fi
ln -s -- "$1" "$3" && touch -h -d "@$4" -- "$3" """


class Merger:
    """One container that things are put into."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def is_folder(self, path: str) -> bool:
        return self._container.output(["test", "-d", path])[0] == 0

    def put(
        self, items: Sequence[tuple[Path, str]], folder: str, time: int, overwrite: bool
    ) -> None:
        """Put files, links and whole folders, each under a name, into a folder of the container.

        The folder is made when it lacks, and may be reached through links. Without ``overwrite``
        what is there stays. All is root's and of one time.
        """
        state, real = self._run(_MAKE, folder).decode(errors="surrogateescape").split("\n")[:2]
        there = {} if state == "new" else self._look(real, [name for _, name in items])
        with tempfile.SpooledTemporaryFile(_SPOOL) as spool:
            with tarfile.open(fileobj=spool, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for path, name in items:
                    for one, at in _merged(path, name, there, real, overwrite):
                        _add(tar, one, join(real, at).lstrip("/"), time)
                is_empty = not tar.offset
            if not is_empty:
                spool.seek(0)
                # Not into the folder: Docker refuses a link that leads out of what it unpacks to.
                self._container.put(cast(BinaryIO, spool), "/")
        if state == "new":
            self._run('touch -d "@$1" -- "$2"', str(time), real)

    def link(self, target: str, path: str, time: int, overwrite: bool) -> None:
        """Make a link; what is at its path goes, or without ``overwrite`` stays."""
        if not basename(path):
            raise BuildFailed("`/` cannot be a link")
        self._run(_LINK, target, dirname(path), path, str(time), str(overwrite))

    def _look(self, folder: str, names: Iterable[str]) -> dict[str, bool]:
        """What is there at and below these names: path, and whether it is a folder."""
        found: dict[str, bool] = {}
        for few in _batches(names):
            for entry in self._run(_LOOK, folder, *few).split(b"\0"):
                if entry:
                    found[os.fsdecode(entry[3:])] = entry.startswith(b"d")
        return found

    def _run(self, script: str, *words: str) -> bytes:
        """Run a script of sh; BuildFailed with what it said."""
        code, said = self._container.output(["sh", "-c", f"exec 2>&1\n{script}", "sh", *words])
        if code:
            reason = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise BuildFailed(f"{self._container.name}: {reason or f'sh ended with {code}'}")
        return said


def _merged(
    path: Path, name: str, there: Mapping[str, bool], folder: str, overwrite: bool
) -> Iterator[tuple[Path, str]]:
    """What of a path must be written, folders before what is in them."""
    is_folder = path.is_dir() and not path.is_symlink()
    found = there.get(name)
    if found is not None and found != is_folder:
        if not overwrite:
            return
        what, other = ("folder", "file or link") if is_folder else ("file or link", "folder")
        raise BuildFailed(f"{join(folder, name)} is a {other} in the container, and a {what} here")
    if found is None or (overwrite and not is_folder):
        yield path, name
    if is_folder:
        for one in sorted(path.iterdir()):
            yield from _merged(one, f"{name}/{one.name}", there, folder, overwrite)


def _add(tar: tarfile.TarFile, path: Path, name: str, time: int) -> None:
    """Add a file, folder or link with the modes that git knows."""
    status = path.lstat()
    member = tarfile.TarInfo(name)
    member.mtime = time
    if stat.S_ISLNK(status.st_mode):
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
        tar.addfile(member)
    elif stat.S_ISDIR(status.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    else:
        member.size = status.st_size
        member.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        with path.open("rb") as file:
            tar.addfile(member, cast(IO[bytes], file))


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Names in groups that fit on a command line."""
    few: list[str] = []
    length = 0
    for name in names:
        if few and length + len(name) > _WORDS:
            yield few
            few, length = [], 0
        few.append(name)
        length += len(name) + 1
    if few:
        yield few
