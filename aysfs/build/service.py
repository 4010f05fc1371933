"""The service object: what a template's ``build`` acts through.

Serves templates; the names of the manual are kept (``installRecipe``, ``upload2AYSfs``).
Every operation acts in the build container, says what it does in the log, and raises
BuildFailed. It does not know stores: what is uploaded goes to whoever made the object.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from posixpath import basename, dirname, join

from aysfs.build.container import Container
from aysfs.build.hrd import Hrd
from aysfs.build.log import BuildLog
from aysfs.build.template import Template
from aysfs.errors import BuildFailed

# Belongs to the C library: it must match the dynamic linker of the host that runs the service.
_OF_LIBC = re.compile(
    r"(ld-linux.*|linux-vdso|linux-gate|lib(c|dl|m|pthread|resolv|rt|util|anl|mvec|nsl|nss_\w+))\.so.*"
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
        with self._log.step(f"execute {_short(cmd)}"):
            known = {**self._environment, **(environment or {})}
            code = self._container.run(cmd, self._log.say, environment=known, directory=directory)
            if check and code:
                raise BuildFailed(f"`{_short(cmd)}` ended with {code}")
        return code

    def installRecipe(self) -> Pairs:  # noqa: N802
        """Place what the recipe exports, once; source and destination of each item."""
        if self._placed is None:
            with self._log.step("place the exports of service.hrd"):
                self._placed = self._place()
        return list(self._placed)

    def upload2AYSfs(self, path: str) -> None:  # noqa: N802
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

    def copyLibs(self, binary: str, dest: str | None = None) -> list[str]:  # noqa: N802
        """Copy the shared libraries that a binary needs, and those that they need, to ``dest``.

        Default: ``lib`` beside the folder of the binary. The C library's own stay out: they
        must match the host that runs the service. Gives the paths of the copies.
        """
        dest = dest or join(dirname(dirname(binary)), "lib")
        with self._log.step(f"copy the libraries of {binary} to {dest}"):
            wanted = [path for path in self._libraries(binary) if not _is_in(path, dest)]
            if not wanted:
                return []
            words = ["cp", "-Lp", "--", *wanted, dest]
            command = f"mkdir -p {shlex.quote(dest)} && {shlex.join(words)}"
            if self._container.run(command, self._log.say):
                raise BuildFailed(f"the libraries of {binary} cannot be copied to {dest}")
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


def _is_in(path: str, folder: str) -> bool:
    return dirname(path) == folder.rstrip("/")


def _short(command: str) -> str:
    """A command as a message shows it: its first line, and not all of a long one."""
    first, _, more = command.strip().partition("\n")
    return f"{first[:117]}..." if more or len(first) > 120 else first
