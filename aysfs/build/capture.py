"""A path of the build container as a tar stream, on its way into the list of a build.

Serves builds. Owns the choice of who packs it (the container's own GNU tar, else Docker), and
the judgement of how that ended. Blocks: call it from a worker thread.
"""

import posixpath
from collections.abc import Callable, Iterator

from aysfs.build.container import Container, Output
from aysfs.errors import BuildFailed
from aysfs.publish.stream import TarTree

Note = Callable[[str], None]
"""Takes a line for the log of the build."""

# English messages, whatever the image speaks, and no options of its own.
_TAR = ("env", "LC_ALL=C", "TAR_OPTIONS=", "tar")
_PACK = (
    *_TAR,
    "--create",
    "--file=-",
    "--format=posix",
    # Access and change times are in no list, and would cost a header for each file.
    "--pax-option=delete=atime,delete=ctime",
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--numeric-owner",
    "--sort=name",
    "--directory=/",
)
_CHANGED = 1  # GNU tar's exit code when files differed from what it had looked at
_LOSSES = (
    "there is no GNU tar in the image: Docker packs {path}, without user.* extended attributes"
    " and the nanoseconds of times"
)


def capture(container: Container, path: str, tree: TarTree, note: Note) -> None:
    """Add a file or a directory of the container to the tree, under the path it is asked by.

    When the path itself is a symlink, it is what that points to. BuildFailed when it is not
    there, or changes while it is read.
    """
    path = posixpath.normpath(f"/{path.strip('/')}")
    if _has_gnu_tar(container):
        _by_tar(container, path, tree, note)
    else:
        note(_LOSSES.format(path=path))
        _by_docker(container, path, tree)


def _has_gnu_tar(container: Container) -> bool:
    code, said = container.output([*_TAR, "--version"])
    return code == 0 and b"GNU tar" in said


def _by_tar(container: Container, path: str, tree: TarTree, note: Note) -> None:
    real = _followed(container, path, "-e")
    if real is None:
        raise BuildFailed(f"there is no {path} in the container")
    # Of the whole container only its own file system: no /proc.
    bounds = ["--one-file-system"] if real == "/" else []
    with container.stream([*_PACK, *bounds, "--", f".{real}"]) as output:
        try:
            tree.add(output.read, _bytes(path), _bytes(real[1:]))
        except BuildFailed:
            # Where tar itself failed, that is the reason why the archive is not whole.
            _judge(path, output)
            raise
        said = _judge(path, output)
    ignored = said.count(": socket ignored")
    if ignored:
        note(f"{path}: {ignored} sockets were left out, a tar holds none")


def _by_docker(container: Container, path: str, tree: TarTree) -> None:
    real = _followed(container, path, "-f") or path
    if real == "/":
        raise BuildFailed("the whole container can only be uploaded with GNU tar in its image")
    with container.archive(real) as pieces:  # named by the last part of the path
        tree.add(_reader(pieces), _bytes(path), _bytes(posixpath.basename(real)))


def _followed(container: Container, path: str, how: str) -> str | None:
    """Where a path is, once symlinks are followed."""
    code, said = container.output(["readlink", how, path])
    return None if code or not said else said.removesuffix(b"\n").decode(errors="surrogateescape")


def _judge(path: str, output: Output) -> str:
    """What tar said on standard error; BuildFailed unless it ended well."""
    code, said = output.end()
    if code == _CHANGED:
        raise BuildFailed(
            f"{path} changed while it was uploaded",
            output=said,
            hint="let the build end what still writes there before it uploads",
        )
    if code:
        raise BuildFailed(f"tar of {path} ended with {code}", output=said)
    return said


def _reader(pieces: Iterator[bytes]) -> Callable[[int], bytes]:
    """Pieces as a file is read, each as large as it comes."""
    rest = memoryview(b"")

    def read(size: int) -> bytes:
        nonlocal rest
        while not rest:
            piece = next(pieces, None)
            if piece is None:
                return b""
            rest = memoryview(piece)
        data, rest = rest[:size], rest[size:]
        return bytes(data)

    return read


def _bytes(path: str) -> bytes:
    return path.encode(errors="surrogateescape")
