"""The service object: what a template's ``build`` acts through.

Serves templates; the names of the manual are kept (``installRecipe``, ``upload2AYSfs``).
Every operation acts in the build container, says what it does in the log, and raises
BuildFailed. It does not know stores: what is uploaded goes to whoever made the object.
"""

import io
import re
import shlex
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from posixpath import basename, dirname, join

from aysfs.build.container import Container
from aysfs.build.hrd import Hrd
from aysfs.build.log import BuildLog
from aysfs.build.template import Template
from aysfs.errors import BuildFailed

# Belongs to the C library: it must match the dynamic linker of the host that runs the service.
_OF_LIBC = re.compile(
    r"(ld-linux.*|linux-(vdso|gate)\.so.*|lib(c|dl|m|pthread|resolv|rt|util|anl|mvec|nss_\w+)\.so.*|libnsl\.so\.1)"
)
_LDD_LINE = re.compile(r"\s*(?P<name>\S+)(?: => (?P<path>/\S+|not found))?(?: \(0x[0-9a-f]+\))?\s*")
_APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends"

Pairs = list[tuple[str, str]]


class Service:
    """One build in one container."""

    def __init__(
        self,
        template: Template,
        container: Container,
        log: BuildLog,
        *,
        place: Callable[[], Pairs],
        upload: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> None:
        self.name = template.name.name
        self.domain = template.name.domain
        self._template = template
        self._container = container
        self._log = log
        self._place = place
        self._upload = upload
        self._environment = dict(environment)
        self._placed: Pairs | None = None
        self._is_updated = False

    @property
    def hrd(self) -> Hrd:
        """The template's ``service.hrd``."""
        return self._template.hrd

    def log(self, words: str) -> None:
        """A line in the log of the build."""
        self._log.note(words)

    def execute(
        self,
        cmd: str,
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        check: bool = True,
    ) -> int:
        """Run a shell command in the container, its output streamed to the log; its exit code.

        BuildFailed when that is not 0, unless ``check`` is off.
        """
        with self._log.step(f"execute {short(cmd)}"):
            known = {**self._environment, **(environment or {})}
            code = self._container.run(cmd, self._log.say, environment=known, directory=directory)
            if check and code:
                raise BuildFailed(f"`{short(cmd)}` ended with {code}")
        return code

    def output(self, cmd: str) -> str:
        """What a shell command says on its standard output; BuildFailed when it ends badly."""
        with self._log.step(f"execute {short(cmd)}"):
            code, said = self._container.output(
                cmd, say=self._log.say, environment=self._environment
            )
            if code:
                raise BuildFailed(f"`{short(cmd)}` ended with {code}")
        return said.decode(errors="replace")

    def installRecipe(self) -> Pairs:  # noqa: N802 - the manual's name
        """Place what the recipe exports, once; source and destination of each item."""
        if self._placed is None:
            with self._log.step("place the exports of service.hrd"):
                self._placed = self._place()
        return list(self._placed)

    def upload2AYSfs(self, path: str) -> None:  # noqa: N802 - the manual's name
        """Publish a file or folder of the container, under the path it has there."""
        if not path.startswith("/") or ".." in path.split("/"):
            raise BuildFailed(f"`{path}` cannot be uploaded: it must be absolute, without `..`")
        with self._log.step(f"upload {path}"):
            self._upload(path)

    def install(self, packages: str | Iterable[str]) -> None:
        """Install Debian packages in the container."""
        names = packages.split() if isinstance(packages, str) else list(packages)
        if not self._is_updated:
            self.execute("apt-get -q update")
            self._is_updated = True
        self.execute(f"{_APT} install {shlex.join(names)}")

    def copyFiles(self, source: str, dest: str) -> None:  # noqa: N802 - the manual's name
        """Copy a file or folder of the template into the container, as root's."""
        path = self._template.folder / source
        if ".." in Path(source).parts or Path(source).is_absolute() or not path.exists():
            raise BuildFailed(f"the template {self._template.folder} has no `{source}`")
        if not dest.startswith("/") or ".." in dest.split("/"):
            raise BuildFailed(f"`{dest}` is no place to copy to: it must be absolute, without `..`")
        with self._log.step(f"copy {source} of the template to {dest}"):
            self._container.put(_packed(path, dest.strip("/")))

    def copyLibs(  # noqa: N802 - the manual's name
        self, binary: str | Sequence[str], dest: str | None = None
    ) -> list[str]:
        """Copy the shared libraries that binaries need, and those that they need, to ``dest``.

        Default: ``lib`` beside the folder of the first. The C library's own stay out: they
        must match the host that runs the service. Gives the paths of the copies.
        """
        binaries = [binary] if isinstance(binary, str) else list(binary)
        dest = dest or join(dirname(dirname(binaries[0])), "lib")
        with self._log.step(f"copy the libraries of {short(' '.join(binaries))} to {dest}"):
            found = dict.fromkeys(path for one in binaries for path in self._libraries(one))
            wanted = [path for path in found if not _is_in(path, dest)]
            if not wanted:
                return []
            words = ["cp", "-Lp", "--", *wanted, dest]
            command = f"mkdir -p {shlex.quote(dest)} && {shlex.join(words)}"
            if self._container.run(command, self._log.say):
                raise BuildFailed(f"the libraries cannot be copied to {dest}")
        return [join(dest, basename(path)) for path in wanted]

    def _libraries(self, binary: str) -> list[str]:
        """The ldd closure of a binary, without the C library; BuildFailed when one is missing."""
        code, said = self._container.output(["ldd", binary])
        text = said.decode(errors="replace")
        if code:
            if "statically linked" in text or "not a dynamic executable" in text:
                return []
            raise BuildFailed(f"ldd of {binary} ended with {code}", output=text)
        found: list[str] = []
        for line in text.splitlines():
            match = _LDD_LINE.fullmatch(line)
            if match is None or _OF_LIBC.fullmatch(basename(match["name"])):
                continue
            if match["path"] == "not found":
                raise BuildFailed(f"{binary} needs {match['name']}, which is not there")
            if match["path"]:
                found.append(match["path"])
        return found


def _packed(path: Path, name: str) -> bytes:
    """A tar of a file or folder under another name, with modes and without owners."""

    def plain(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
        item.uid = item.gid = 0
        item.uname = item.gname = ""
        return None if basename(item.name) == "__pycache__" else item

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(path, arcname=name, filter=plain)
    return out.getvalue()


def _is_in(path: str, folder: str) -> bool:
    return dirname(path) == folder.rstrip("/")


def short(command: str) -> str:
    """A command as a message shows it: its first line, and not all of a long one."""
    first, _, more = command.strip().partition("\n")
    return f"{first[:117]}..." if more or len(first) > 120 else first
