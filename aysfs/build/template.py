"""Templates: folders with a ``service.hrd``, and perhaps actions, found along a search path.

Serves builds and the command line. A root may hold a template as ``<domain>/<name>/``, as
``<domain>__<name>/`` or below a group, ``_group/<name>/``. Templates are read, never written.
"""

import difflib
import hashlib
import importlib.resources
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from aysfs.build.actions import ActionsBase
from aysfs.build.hrd import Hrd
from aysfs.build.loading import load_actions
from aysfs.build.platforms import is_known
from aysfs.build.recipe import (
    BuildSpec,
    GitExport,
    VerifySpec,
    WebExport,
    build_spec,
    dependencies,
    git_export,
    git_exports,
    mistyped_keys,
    unknown_keys,
    verify_spec,
    web_export,
    web_exports,
)
from aysfs.errors import Ambiguous, BadHrd, BadName, BadRecipe, TemplateMissing
from aysfs.names import DEFAULT_DOMAIN, ServiceName, parse_name

RECIPE, SCHEMA = "service.hrd", "instance.hrd"
MGMT, TMPL = "actions_mgmt.py", "actions_tmpl.py"
MAX_DEPTH = 5

SYSTEM = Hrd(
    {
        "system.paths.base": "/opt/jumpscale8",
        "system.paths.bin": "/opt/jumpscale8/bin",
        "system.paths.cfg": "/opt/jumpscale8/cfg",
        "system.paths.hrd": "/opt/jumpscale8/hrd",
        "system.paths.log": "/opt/jumpscale8/var/log",
        "system.paths.python.lib.ext": "/opt/jumpscale8/libext",
        "system.paths.python.lib.js": "/opt/jumpscale8/lib/JumpScale",
        "system.paths.var": "/opt/jumpscale8/var",
    },
    source="system",
)
"""The names that recipes expect of the system that they install into."""


class Finding(NamedTuple):
    """One thing that is wrong with a template, and where."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Template:
    """One template. Its recipe is read when it is first asked for."""

    def __init__(self, folder: Path, name: ServiceName, *, system: Hrd = SYSTEM) -> None:
        self.folder = folder
        self.name = name
        self._system = system

    @cached_property
    def hrd(self) -> Hrd:
        """The recipe, ``$(service.*)`` and ``$(system.*)`` known; BadHrd when it is none."""
        own = {"service.name": self.name.name, "service.domain": self.name.domain}
        names = Hrd({**own, "service.instance": "main"}, source="service")
        return Hrd.read(self.folder / RECIPE, parents=[names, self._system])

    @property
    def schema(self) -> Hrd | None:
        """What an instance of this template is asked and given; None when it needs nothing."""
        path = self.folder / SCHEMA
        return Hrd.read(path) if path.is_file() else None

    @property
    def git_exports(self) -> list[GitExport]:
        return git_exports(self.hrd)

    @property
    def web_exports(self) -> list[WebExport]:
        return web_exports(self.hrd)

    @property
    def build_spec(self) -> BuildSpec | None:
        return build_spec(self.hrd)

    @property
    def verify_spec(self) -> VerifySpec | None:
        return verify_spec(self.hrd)

    def actions(self) -> ActionsBase:
        """The template's actions, or the default ones. Its own ``build`` may be in either file."""
        found = ActionsBase()
        for path in (self.folder / MGMT, self.folder / TMPL):
            if type(found).build is ActionsBase.build and path.is_file():
                found = load_actions(path, self.hrd)
        return found

    def digest(self) -> str:
        """A sha256 over all that a build reads of the folder: paths, modes and bytes, no times."""
        digest = hashlib.sha256()
        for path in sorted(_files(self.folder)):
            relative = os.fsencode(path.relative_to(self.folder))
            data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
            mode = path.lstat().st_mode
            digest.update(b"%o %d %d " % (mode, len(relative), len(data)))
            digest.update(relative + data)
        return digest.hexdigest()

    def check(self) -> list[Finding]:
        """All that is wrong, as far as it can be told without building."""
        place = str(self.folder / RECIPE)
        try:
            hrd = self.hrd
        except BadHrd as refusal:
            return [_finding(refusal)]
        found = [
            Finding(f"{place}:{hrd.line(key)}", f"`{key}` has an unknown key `{unknown}`")
            for key, unknown in unknown_keys(hrd)
        ]
        found += [
            Finding(f"{place}:{hrd.line(key)}", f"nothing reads `{key}`: is `{meant}` meant?")
            for key, meant in mistyped_keys(hrd)
        ]
        if not hrd.exists("build"):
            found.append(Finding(place, "no image: `build = image:...` is missing"))
        found += self._refusals()
        try:
            self.actions()
        except BadRecipe as refusal:
            place, _, reason = str(refusal).partition(": ")
            found.append(Finding(place, reason))
        return found

    def _refusals(self) -> Iterator[Finding]:
        """What each part of the recipe is refused for."""
        hrd = self.hrd
        readers: list[Callable[[], object]] = [
            partial(build_spec, hrd),
            partial(verify_spec, hrd),
            partial(dependencies, hrd),
            *(partial(web_export, hrd, key) for key in hrd.numbered("web.export")),
            *(partial(git_export, hrd, key) for key in hrd.numbered("git.export")),
        ]
        for read in readers:
            try:
                value = read()
            except BadHrd as refusal:
                yield _finding(refusal)
                continue
            if isinstance(value, GitExport) and not all(map(is_known, value.platform)):
                place = f"{hrd.source}:{hrd.line(value.key)}"
                platforms = ", ".join(value.platform)
                yield Finding(place, f"`{value.key}` is for a platform not known: `{platforms}`")

    def __repr__(self) -> str:
        return f"<Template {self.name} in {self.folder}>"


class Templates:
    """A search path: the first root that has a template is the one that counts."""

    def __init__(
        self, roots: Sequence[Path], *, default_domain: str = DEFAULT_DOMAIN, system: Hrd = SYSTEM
    ) -> None:
        self.roots = tuple(dict.fromkeys(root.resolve() for root in roots))
        self._default_domain = default_domain
        self._system = system

    def list(self) -> list[Template]:
        """Every template that ``find`` can reach, by name; of several roots, the first one's."""
        found: dict[ServiceName, Template] = {}
        for root in self.roots:
            here: dict[ServiceName, Template] = {}
            for template in self._in_root(root):
                here.setdefault(template.name, template)
            found = here | found
        return [found[name] for name in sorted(found)]

    def find(self, ref: str | ServiceName) -> Template:
        """The template of a service; TemplateMissing, or Ambiguous when one root has several."""
        name = parse_name(ref, self._default_domain) if isinstance(ref, str) else ref
        name = name._replace(tag=None)
        for root in self.roots:
            found = [template for template in self._in_root(root) if template.name == name]
            if len(found) > 1:
                folders = ", ".join(str(template.folder) for template in found)
                raise Ambiguous(f"multiple templates found for `{name}`: {folders}")
            if found:
                return found[0]
        raise TemplateMissing(self._unknown(name), hint="see them all: `aysfs template list`")

    def _unknown(self, name: ServiceName) -> str:
        known: dict[str, list[str]] = {}  # by the bare name: a domain makes all names look alike
        for one in self.list():
            known.setdefault(one.name.name, []).append(str(one.name))
        near = [
            full for bare in difflib.get_close_matches(name.name, known) for full in known[bare]
        ]
        ask = f"; did you mean {' or '.join(near[:3])}?" if near else ""
        where = ", ".join(map(str, self.roots)) or "no folder"
        return f"no template `{name}` in {where}{ask}"

    def _in_root(self, root: Path) -> Iterator[Template]:
        for folder in _template_folders(root, 0):
            name = _name_of(folder.relative_to(root).parts, self._default_domain)
            if name:
                yield Template(folder, name, system=self._system)


def shipped() -> Path:
    """The root of the templates that come with the project."""
    return Path(str(importlib.resources.files("aysfs") / "templates"))


def _name_of(parts: Sequence[str], default_domain: str) -> ServiceName | None:
    """The name that a place below a root stands for; None when it is no name of a service."""
    if not parts:
        return None
    first, last = parts[0], parts[-1]
    domain = first if len(parts) > 1 and not first.startswith("_") else default_domain
    try:
        return parse_name(last if "__" in last else f"{domain}__{last}", default_domain)
    except BadName:
        return None


def _template_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Folders with a recipe, in order; nothing below one is another template."""
    if depth and (folder / RECIPE).is_file():
        yield folder
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):  # a search path may name what is not there
        return
    for entry in entries:
        if depth < MAX_DEPTH and entry.name[0] != "." and entry.is_dir(follow_symlinks=False):
            yield from _template_folders(Path(entry.path), depth + 1)


def _files(folder: Path) -> Iterator[Path]:
    """What a build may read: everything but what Python, git and builds leave behind."""
    for entry in os.scandir(folder):
        if entry.name in ("__pycache__", ".git") or entry.name.endswith((".pyc", ".flist")):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file() or entry.is_symlink():
            yield Path(entry.path)


def _finding(refusal: BadHrd) -> Finding:
    line = f":{refusal.line}" if refusal.line else ""
    return Finding(f"{refusal.source}{line}", refusal.reason)
