"""Does the mounted build, seen from a container of its image, hold what its list says?

Serves ``aysfs verify`` and every build. Checks each entry (type, mode, owner, size, md5, link
target, device), the shared libraries of binaries, and the template's own check. It is given a
mount and knows nothing of how it was made.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aysfs.build.container import Container
from aysfs.build.engine import Docker, Mounted
from aysfs.build.log import BuildLog
from aysfs.build.recipe import VerifySpec
from aysfs.build.service import short
from aysfs.build.view import Seen, View, choose_view
from aysfs.errors import VerifyFailed
from aysfs.load import Loaded
from aysfs.names import ServiceName
from aysfs.tree import ROOT, Node, Tree

ROOT_VIEW = "/mnt/aysfs"  # where a tree based at `/` is seen: it cannot lie over the image's own
_ELF = b"\x7fELF"
_LDD_BATCH = 200


class Verified(NamedTuple):
    """What was checked. ``libraries`` counts binaries, None when the image has no ldd."""

    entries: int
    files: int
    size: int
    libraries: int | None
    check: str | None


class Mount(NamedTuple):
    """A service as it is mounted on this host."""

    name: ServiceName
    tree: Tree
    point: Path
    tops: tuple[bytes, ...] = ()
    """What a tree based at `/` holds, each bound to its own path for binaries and the own check."""
    starting: Callable[[], object] = lambda: None
    """Told when every file was looked at, and what comes next starts the service."""

    @property
    def home(self) -> str:
        """Where binaries and the own check find the tree."""
        base = os.fsdecode(self.tree.base)
        return ROOT_VIEW if base == "/" and not self.tops else base


def tops_of(loaded: Loaded) -> tuple[bytes, ...]:
    """The topmost files and directories that a list based at `/` names; none when it names `/`."""
    tree = loaded.tree
    if tree.base != b"/" or len(tree) == loaded.named + loaded.implied:
        return ()
    mtimes, found, todo = tree.columns.mtimes, [], [ROOT]
    while todo:
        for child in map(Node, tree.children(todo.pop())):
            # What no line names has the time of the list, as the root has here.
            if tree.is_directory(child) and mtimes[child] == mtimes[ROOT]:
                todo.append(child)
            elif tree.is_directory(child) or tree.is_regular(child):
                found.append(tree.path(child))
    return tuple(sorted(found))


def verify(
    docker: Docker,
    image: str,
    mount: Mount,
    spec: VerifySpec | None,
    log: BuildLog,
    own: Callable[[Container], None] = lambda _: None,
) -> Verified:
    """Check it all in a container that is removed afterwards; VerifyFailed names what is wrong.

    ``own`` is told of the container: whoever removes it ends the checks.
    """
    base = os.fsdecode(mount.tree.base)
    place = ROOT_VIEW if base == "/" else base
    tops = map(os.fsdecode, mount.tops)
    with log.step(f"verify {mount.name} in a container of {image}"):
        container = docker.start(
            image,
            name=f"aysfs-verify-{mount.name}",
            service=str(mount.name),
            mounts=[
                Mounted(str(mount.point), place),
                *(Mounted(f"{mount.point}{top}", top) for top in tops),
            ],
        )
        try:
            own(container)
            return check(container, mount, place, spec, log)
        finally:
            container.remove()


def check(
    container: Container, mount: Mount, place: str, spec: VerifySpec | None, log: BuildLog
) -> Verified:
    """The same in a container that sees the tree at ``place`` already."""
    tree = mount.tree
    findings = list(_entries(choose_view(container), tree, os.fsencode(place).rstrip(b"/")))
    binaries = None if findings else _binaries(mount, mount.home)
    if binaries is not None:
        missing = _missing_libraries(container, binaries)
        if missing is None:
            log.note("the image has no ldd: shared libraries were not checked")
            binaries = None
        findings += missing or []
    if spec is not None and not findings:
        mount.starting()
        findings += _own_check(container, spec, log)
    if findings:
        raise VerifyFailed(
            f"{mount.name}: {len(findings)} findings, the first: {findings[0]}", tuple(findings)
        )
    regular = [node for node in tree.walk() if tree.is_regular(node)]
    return Verified(
        entries=len(tree),
        files=len(regular),
        size=sum(tree.sizes[tree.inode(node)] for node in regular),
        libraries=None if binaries is None else len(binaries),
        check=spec.cmd if spec else None,
    )


def _entries(view: View, tree: Tree, place: bytes) -> Iterator[str]:
    """Every way in which an entry is not as the list says."""
    nodes = {place + (tree.path(node) if node else b"") or b"/": node for node in tree.walk()}
    seen = view.stat(list(nodes))
    files: list[bytes] = []
    links: list[bytes] = []
    for path, node in nodes.items():
        found = seen.get(path)
        if found is None:
            yield f"{_text(path)}: missing"
            continue
        wrong = list(_differences(tree, tree.inode(node), found))
        if wrong:
            yield f"{_text(path)}: {', '.join(wrong)}"
        elif stat.S_ISREG(found.mode):
            files.append(path)
        elif stat.S_ISLNK(found.mode):
            links.append(path)
    digests = view.md5(files)
    for path in files:
        got, wanted = digests.get(path), tree.digest(tree.inode(nodes[path]))
        if got is None:
            yield f"{_text(path)}: cannot be read"
        elif got != wanted:
            yield f"{_text(path)}: md5 {got.hex()} instead of {wanted.hex()}"
    targets = view.targets(links)
    for path in links:
        if targets.get(path) != tree.target(nodes[path]):
            yield f"{_text(path)}: points elsewhere than to {_text(tree.target(nodes[path]))}"


def _differences(tree: Tree, node: Node, found: Seen) -> Iterator[str]:
    columns = tree.columns
    mode = columns.modes[node]
    if stat.S_IFMT(found.mode) != stat.S_IFMT(mode):
        yield "is of another type"
        return
    if stat.S_IMODE(found.mode) != stat.S_IMODE(mode):
        yield f"mode {stat.S_IMODE(found.mode):o} instead of {stat.S_IMODE(mode):o}"
    owner = (columns.uids[node], columns.gids[node])
    if (found.uid, found.gid) != owner:
        yield f"owner {found.uid}:{found.gid} instead of {owner[0]}:{owner[1]}"
    if stat.S_ISREG(mode) and found.size != columns.sizes[node]:
        yield f"{found.size} bytes instead of {columns.sizes[node]}"
    if (stat.S_ISBLK(mode) or stat.S_ISCHR(mode)) and found.rdev != tree.rdev(node):
        yield f"device {found.rdev} instead of {tree.rdev(node)}"


def _binaries(mount: Mount, place: str) -> list[str]:
    """What the dynamic linker loads, by its path in the container."""
    tree, found = mount.tree, []
    for node in tree.walk():
        mode, name = tree.modes[node], tree.names[node]
        if not stat.S_ISREG(mode) or not (mode & 0o111 or b".so" in name):
            continue
        path = os.fsdecode(tree.path(node))
        with open(f"{mount.point}{path}", "rb", buffering=0) as file:
            if file.read(4) == _ELF:
                found.append(place.rstrip("/") + path)
    return found


def _missing_libraries(container: Container, binaries: Sequence[str]) -> list[str] | None:
    """Libraries that the linker does not find; None where there is no ldd to ask."""
    if not binaries:
        return []
    if container.output(["sh", "-c", "command -v ldd"])[0]:
        return None
    findings = []
    for at in range(0, len(binaries), _LDD_BATCH):
        batch = binaries[at : at + _LDD_BATCH]
        _, said = container.output(["ldd", *batch])
        of = batch[0]
        for line in said.decode(errors="replace").splitlines():
            if line.endswith(":") and line[:-1] in batch:
                of = line[:-1]
            elif line.endswith("=> not found"):
                library = line.split("=>")[0].strip()
                findings.append(f"{of}: needs {library}, which is nowhere")
    return findings


def _own_check(container: Container, spec: VerifySpec, log: BuildLog) -> list[str]:
    """The template's ``verify``: a command that must end well and say what is expected."""
    said: list[bytes] = []

    def say(data: bytes) -> None:
        said.append(data)
        log.say(data)

    cmd = short(spec.cmd)
    with log.step(f"check: {cmd}"):
        code = container.run(spec.cmd, say)
    text = b"".join(said).decode(errors="replace")
    if code:
        last = text.strip().rpartition("\n")[2]
        return [f"its check `{cmd}` ended with {code}: {last}"]
    if spec.expect is not None and spec.expect not in text:
        return [f"its check `{cmd}` did not say `{spec.expect}`"]
    return []


def _text(path: bytes) -> str:
    """A path in a finding, which is one line."""
    text = path.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
