"""What a service.hrd says about a build, as typed and checked values. Pure.

Serves whoever clones, places and builds. Every path that leaves this module is absolute (a
destination) or relative (a source), and holds no ``..``; nothing starts with a dash that will
stand on a command line. It must not clone, download or place anything.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote, urlsplit, urlunsplit

from aysfs.build.hrd import Hrd, Value
from aysfs.build.hrd.scalars import as_bool
from aysfs.build.hrd.values import show
from aysfs.build.hrd.writer import format_line

GIT_KEYS = frozenset(
    (
        *("url", "source", "dest", "link", "nodirs", "overwrite", "platform"),
        *("branch", "revision", "depth", "login", "passwd"),
    )
)
WEB_KEYS = frozenset(("url", "source", "dest", "checkmd5"))
DEFAULT_NAMESPACE = "dedupe"

_REF = re.compile(r"[A-Za-z0-9_][\w./+@-]*", re.ASCII)
_IMAGE = re.compile(r"[A-Za-z0-9][\w.:/@-]*", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_UNKNOWN = re.compile(r"\$\([\w.]*\)")


@dataclass(frozen=True)
class GitExport:
    """One ``git.export.N``. ``depth`` None is the full history; ``source`` "" the whole tree.

    A source that ends in ``*`` means each file, and unless ``nodirs`` each folder, one level
    deep. A login and password in the URL have been moved to their fields.
    """

    url: str
    source: str
    dest: str
    link: bool = False
    nodirs: bool = False
    overwrite: bool = True
    platform: tuple[str, ...] = ()
    branch: str | None = None
    revision: str | None = None
    depth: int | None = 1
    login: str | None = None
    passwd: str | None = field(default=None, repr=False)
    key: str = field(default="git.export", compare=False)


@dataclass(frozen=True)
class WebExport:
    """One ``web.export.N``: ``url/source`` becomes the file ``dest``."""

    url: str = field(repr=False)
    source: str
    dest: str
    checkmd5: bool = False
    key: str = field(default="web.export", compare=False)


@dataclass(frozen=True)
class BuildSpec:
    """``build = image:, repo:, dedupe_ns:``: where a build runs, and where its blobs go."""

    image: str
    repo: str | None = None
    dedupe_ns: str = DEFAULT_NAMESPACE


@dataclass(frozen=True)
class VerifySpec:
    """``verify = cmd:, expect:``: a command, and a text that its output must hold."""

    cmd: str
    expect: str | None = None


@dataclass(frozen=True)
class Dependency:
    """One ``dependencies.N``. ``type`` is ``build`` for what must be built before."""

    name: str
    domain: str | None = None
    instance: str = "main"
    type: str = ""


def git_exports(hrd: Hrd) -> list[GitExport]:
    """The ``git.export`` items by number; BadHrd for one that cannot be followed."""
    return [git_export(hrd, key) for key in hrd.numbered("git.export")]


def web_exports(hrd: Hrd) -> list[WebExport]:
    """The ``web.export`` items by number; BadHrd for one that cannot be followed."""
    return [web_export(hrd, key) for key in hrd.numbered("web.export")]


def git_export(hrd: Hrd, key: str) -> GitExport:
    """One item, by its key."""
    item = _item(hrd, key)
    item.required("url")
    url, login, passwd = without_credentials(item.repository("url") or "")
    return GitExport(
        url=url,
        source=item.source(),
        dest=item.dest(),
        link=item.flag("link", default=False),
        nodirs=item.flag("nodirs", default=False),
        overwrite=item.flag("overwrite", default=True),
        platform=item.platforms(),
        branch=item.ref("branch"),
        revision=item.ref("revision"),
        depth=item.depth(),
        login=item.text("login") or login,
        passwd=item.text("passwd") or passwd,
        key=key,
    )


def web_export(hrd: Hrd, key: str) -> WebExport:
    """One item, by its key."""
    item = _item(hrd, key)
    dest = item.dest()
    if dest.endswith("/"):
        item.refuse(f"dest `{show(dest)}` is no file")
    md5 = item.flag("checkmd5", default=False)
    return WebExport(item.required("url"), item.source(), dest, md5, key)


def build_spec(hrd: Hrd) -> BuildSpec | None:
    """Where to build; None when the recipe does not say."""
    if not hrd.exists("build"):
        return None
    item = _item(hrd, "build")
    item.required("image")
    namespace = item.ref("dedupe_ns", _NAMESPACE) or DEFAULT_NAMESPACE
    return BuildSpec(item.ref("image", _IMAGE) or "", item.repository("repo"), namespace)


def verify_spec(hrd: Hrd) -> VerifySpec | None:
    """How to check a build; None when the recipe does not say."""
    if not hrd.exists("verify"):
        return None
    item = _item(hrd, "verify")
    return VerifySpec(item.required("cmd"), item.text("expect"))


def dependencies(hrd: Hrd) -> list[Dependency]:
    """The ``dependencies.N`` by number."""
    items = [_item(hrd, key) for key in hrd.numbered("dependencies")]
    return [
        Dependency(
            item.required("name"),
            item.text("domain"),
            item.text("instance") or "main",
            item.text("type") or "",
        )
        for item in items
    ]


_READ = ("build", "dependencies", "git.export", "verify", "web.export")


def unknown_keys(hrd: Hrd) -> list[tuple[str, str]]:
    """Keys of exports that mean nothing, each with the export it stands in."""
    return [
        (key, name)
        for prefix, known in (("git.export", GIT_KEYS), ("web.export", WEB_KEYS))
        for key in hrd.numbered(prefix)
        if isinstance(value := hrd.raw(key), dict)
        for name in value
        if name not in known
    ]


def mistyped_keys(hrd: Hrd) -> list[tuple[str, str]]:
    """Keys that nothing reads and that are nearly one a build reads, with what may be meant.

    A recipe may have any key, for its own ``$(...)`` or for other tools; so no more can be said.
    """
    found = []
    for key in sorted(hrd.keys()):
        stem, _, number = key.rpartition(".")
        name = stem if number.isdecimal() else key
        near = difflib.get_close_matches(name, _READ, n=1, cutoff=0.8)
        if near and name not in _READ:
            found.append((key, near[0]))
    return found


def without_credentials(url: str) -> tuple[str, str | None, str | None]:
    """A URL of the web without login and password, which show in process lists and logs."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that is no IPv6 address: git will say what it thinks of it
        return url, None, None
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return url, None, None
    user, _, host = parts.netloc.rpartition("@")
    login, _, passwd = user.partition(":")
    bare = urlunsplit(parts._replace(netloc=host))
    return bare, unquote(login) or None, unquote(passwd) or None


def _item(hrd: Hrd, key: str) -> "_Item":
    """A value that must be a dict. Not ``get_dict``: ``cmd:true`` is a command here."""
    value = hrd.get(key)
    if not isinstance(value, dict):
        hrd.refuse(key, "is no dict")
    return _Item(hrd, key, value)


@dataclass(frozen=True)
class _Item:
    """The fields of one value that is a dict; refuses with its key and line."""

    hrd: Hrd
    key: str
    fields: Mapping[str, Value]

    def refuse(self, reason: str) -> NoReturn:
        self.hrd.refuse(self.key, f"cannot be used: {reason}")

    def text(self, name: str) -> str | None:
        """A field as text; None when it is empty or not there."""
        return format_line(self.fields.get(name)).strip() or None

    def required(self, name: str) -> str:
        text = self.text(name)
        if text is None:
            self.refuse(f"{name} is missing")
        return text

    def repository(self, name: str) -> str | None:
        """A URL of git: no option, and no transport that runs a command (``ext::``)."""
        url = self.text(name)
        if url and (url.startswith("-") or "::" in url.partition("/")[0]):
            self.refuse(f"`{show(url)}` is no url of a repository")
        return url

    def flag(self, name: str, *, default: bool) -> bool:
        text = self.text(name)
        if text is None:
            return default
        said = as_bool(text)
        if said is None:
            self.refuse(f"{name} is neither true nor false")
        return said

    def ref(self, name: str, form: re.Pattern[str] = _REF) -> str | None:
        """A name of a branch, revision, image or namespace; None when it is not given."""
        text = self.text(name)
        if text is not None and (not form.fullmatch(text) or ".." in text):
            self.refuse(f"{name} cannot be `{show(text)}`")
        return text

    def dest(self) -> str:
        """An absolute path without ``..``, its names all known."""
        path = re.sub("/+", "/", self.required("dest"))
        if not path.startswith("/") and not path.startswith("$("):
            self.refuse(f"dest `{show(path)}` must start with `/`")
        self._check_path("dest", path)
        return path

    def source(self) -> str:
        """A path below the root of the repository; empty for the root itself."""
        path = re.sub("/+", "/", self.text("source") or "").lstrip("/")
        self._check_path("source", path)
        if "*" in path[:-1] or (path.endswith("*") and not path.endswith("/*") and path != "*"):
            self.refuse(f"source `{show(path)}` has its `*` elsewhere than after the last `/`")
        return path

    def _check_path(self, name: str, path: str) -> None:
        if unknown := _UNKNOWN.search(path):
            self.refuse(f"{name} needs `{show(unknown[0])}`, which nobody gives")
        if ".." in path.split("/"):
            self.refuse(f"{name} `{show(path)}` climbs out with `..`")
        if not path.isprintable():
            self.refuse(f"{name} `{show(path)}` is no path")

    def platforms(self) -> tuple[str, ...]:
        names = (self.text("platform") or "").lower().split(",")
        return tuple(name.strip() for name in names if name.strip())

    def depth(self) -> int | None:
        """How much history; None for all of it."""
        text = (self.text("depth") or "1").lower()
        if text == "all":
            return None
        if not re.fullmatch("[1-9][0-9]{0,8}", text):
            self.refuse(f"depth `{show(text)}` is neither a number above 0 nor `all`")
        return int(text)
