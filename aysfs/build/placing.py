"""What a recipe exports, put into the build container.

Serves the service object. Knows what each field of an export means; git is ``checkout``'s, the
web is ``download``'s, the container's files are ``merging``'s. Nothing is taken from outside of
a repository, and nothing is written outside of a destination.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from posixpath import basename, dirname, join, normpath
from typing import NamedTuple

from aysfs.build.checkout import Checkout, Checkouts
from aysfs.build.container import Container
from aysfs.build.download import download
from aysfs.build.merging import Merger
from aysfs.build.platforms import matches
from aysfs.build.recipe import GitExport, WebExport
from aysfs.errors import BuildFailed

CODE = "/opt/code"
PLATFORM = "debian64"

Note = Callable[[str], None]


class Placed(NamedTuple):
    """Source and destination of each item, once each, and the commit of each repository.

    A source is ``/opt/code/<hosttype>/<account>/<repo>/...`` or the url of a download. A url that
    was used at a second commit is in ``revisions`` as ``url@commit`` too.
    """

    pairs: list[tuple[str, str]]
    revisions: dict[str, str]


class _Item(NamedTuple):
    """A file, link or folder of a checkout, its name there, and its path in the container."""

    path: Path
    name: str
    dest: str

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir() and not self.path.is_symlink()


def place(
    exports: Iterable[GitExport],
    web_exports: Iterable[WebExport],
    container: Container,
    checkouts: Checkouts,
    note: Note,
    *,
    platform: str = PLATFORM,
) -> Placed:
    """Place all exports, those from the web first; BuildFailed when one cannot be."""
    pairs: dict[tuple[str, str], None] = {}
    revisions: dict[str, str] = {}
    placing = _Placing(container)
    for web in web_exports:
        url = placing.put_download(web)
        note(f"{web.key}: {url} is in {web.dest}")
        pairs[(url, web.dest)] = None
    for export in exports:
        if not matches(export.platform, platform):
            wanted = ", ".join(export.platform)
            note(f"{export.key}: left out: it is for {wanted}, and this is {platform}")
            continue
        with checkouts.open(export) as checkout:
            note(f"{export.key}: {export.url} is at {checkout.commit}")
            pairs |= dict.fromkeys(placing.put_export(export, checkout))
        if revisions.setdefault(export.url, checkout.commit) != checkout.commit:
            revisions[f"{export.url}@{checkout.commit}"] = checkout.commit
    return Placed(list(pairs), revisions)


class _Placing:
    """One container, and what each folder below /opt/code in it holds."""

    def __init__(self, container: Container) -> None:
        self._files = Merger(container)
        self._code: dict[str, tuple[str, str]] = {}

    def put_download(self, web: WebExport) -> str:
        """Place one download; its url."""
        with download(web) as found, _refusing(web.key):
            name = basename(web.dest)
            self._files.put([(found.path, name)], dirname(web.dest), found.time, overwrite=True)
        return found.url

    def put_export(self, export: GitExport, checkout: Checkout) -> list[tuple[str, str]]:
        """Place one export; its pairs."""
        with _refusing(export.key):
            items = self._items(export, checkout.folder)
            code = join(CODE, checkout.code_path)
            if export.link:
                code = self._put_code(export.url, checkout)
                for one in items:
                    target = normpath(join(code, one.name))
                    self._files.link(target, one.dest, checkout.time, export.overwrite)
            else:
                self._copy(items, checkout.time, export.overwrite)
        return [(normpath(join(code, one.name)), one.dest) for one in items]

    def _items(self, export: GitExport, root: Path) -> list[_Item]:
        """What an export takes, and where each goes.

        A file goes into a destination that ends in ``/`` or, unless it is to be a link, is a
        folder of the container.
        """
        name = export.source.removesuffix("*").rstrip("/")
        source = _inside(root, name)
        dest = export.dest.rstrip("/") or "/"
        if export.source.endswith("*"):
            if not source.is_dir():
                raise BuildFailed(f"{name} is no folder of the repository")
            found = [
                _Item(one, join(name, one.name), join(dest, one.name))
                for one in sorted(source.iterdir())
            ]
            return [one for one in found if not (export.nodirs and one.is_folder)]
        if not source.is_dir():
            is_into = not export.link and self._files.is_folder(dest)
            if is_into or export.dest.endswith("/"):
                dest = join(dest, basename(name))
        return [_Item(source, name, dest)]

    def _copy(self, items: Sequence[_Item], time: int, overwrite: bool) -> None:
        """Each folder in a tar of its own, all else that goes to one folder in one."""
        for one in items:
            if one.is_folder:
                inside = [(path, path.name) for path in sorted(one.path.iterdir())]
                self._files.put(inside, one.dest, time, overwrite)
        single = [one for one in items if not one.is_folder]
        for folder in dict.fromkeys(dirname(one.dest) for one in single):
            here = [(one.path, basename(one.dest)) for one in single if dirname(one.dest) == folder]
            self._files.put(here, folder, time, overwrite)

    def _put_code(self, url: str, checkout: Checkout) -> str:
        """The whole checkout below /opt/code, once; where it is."""
        wanted = (url, checkout.commit)
        code = join(CODE, checkout.code_path)
        if self._code.setdefault(code, wanted) != wanted:
            code = f"{code}-{checkout.commit[:12]}"
        if self._code.setdefault(code, wanted) != wanted:
            raise BuildFailed(f"{code} is taken by another repository")
        inside = [(path, path.name) for path in sorted(checkout.folder.iterdir())]
        self._files.put(inside, code, checkout.time, overwrite=True)
        return code


def _inside(root: Path, name: str) -> Path:
    """A path of a checkout, its links followed as long as they stay in it."""
    top = root.resolve()
    path = (top / name).resolve()
    if not path.is_relative_to(top):
        raise BuildFailed(f"{name} is a link that leads out of the repository")
    if not path.exists():
        raise BuildFailed(f"there is no {name} in the repository")
    return path


@contextlib.contextmanager
def _refusing(key: str) -> Iterator[None]:
    """A refusal names the export that it is for."""
    try:
        yield
    except BuildFailed as failure:
        raise BuildFailed(f"{key}: {failure}", output=failure.output) from failure
