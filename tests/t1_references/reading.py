"""A small tree whose references are read, for tests of what refers to what."""

from collections.abc import Mapping

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.flist.entry import Entry
from aysfs.references import References
from tests.trees import regular, symlink

STANDARD = b"/lib/python3.11"
SITE = STANDARD + b"/site-packages"


class Tree:
    """Files by path, and symlinks (text), as a list and read: what one refers to, by first path."""

    def __init__(self, files: Mapping[bytes, bytes | str]) -> None:
        self.files = {path: what for path, what in files.items() if isinstance(what, bytes)}
        self.first: dict[Digest, bytes] = {}
        for path, content in self.files.items():
            self.first.setdefault(digests.of(content), path)
        self.references = References(
            executable(path, what) if isinstance(what, bytes) else symlink(path, what.encode())
            for path, what in files.items()
        )
        self.read = [self.first[digest] for digest, _ in self.references.to_read()]
        for path in self.read:
            content = self.files[path]
            self.references.read(digests.of(content), content)
        self.found = self.references.finished()

    def of(self, path: bytes) -> list[bytes]:
        """What the blob of a path refers to."""
        targets = self.found.get(digests.of(self.files[path]), ())
        return [self.first[digest] for digest in targets]

    def start(self, **bounds: int) -> list[bytes]:
        return [self.first[digest] for digest in self.references.likely_start(**bounds)]


def executable(path: bytes, content: bytes) -> Entry:
    mode = 0o644 if path.endswith((b".py", b".pyc", b".txt")) else 0o755
    return regular(path, content)._replace(mode=mode)
