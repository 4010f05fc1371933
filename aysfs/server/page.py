"""The page for people at ``/``: what a store holds, to look at and to search.

Serves browsers. Plain HTML from templates that escape everything; no script. Owns the page's
addresses: ``/?ns=NAMESPACE&list=NAME&path=PATH`` and ``q=WORDS``. Names are bytes, so
they are read from the raw query, and shown with what is no text escaped.
"""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote_from_bytes

import jinja2
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from aysfs.errors import BadList, BadName, ListMissing, PathMissing
from aysfs.names import parse_name
from aysfs.server.place import RESERVED
from aysfs.server.service import Service
from aysfs.sizes import size_text
from aysfs.store import layout
from aysfs.tree import Node, Tree

ROWS = 5000
PATIENCE = 2.0  # seconds that a page may read lists for

_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Age(NamedTuple):
    """When something was changed: the moment, and what people call it."""

    moment: str
    words: str


class Row(NamedTuple):
    """A line of a table: what it says, where that leads, and where its bytes are.

    ``download`` is the name that what it leads to is kept under, ``target`` a link's, and ``why``
    what is the matter. A ``tag`` stands below its service.
    """

    text: str
    link: str
    kind: str = ""
    size: str = ""
    age: Age | None = None
    digest: str = ""
    blob: str = ""
    download: str = ""
    target: str = ""
    why: str = ""
    tag: bool = False


# The columns of each table, left to right, by their class and what stands above them.
_NAMESPACES = {"name": "namespace"}
_SERVICES = {"name": "service", "count": "entries", "size": "size", "age": "age"}
_FILES = {"name": "name", "mode": "mode", "size": "size", "age": "changed", "digest": "md5"}
_HITS = {"name": "path", "kind": "service", "size": "size", "digest": "md5"}


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "pages")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


_TEMPLATES = _environment()


async def get_page(service: Service, request: Request) -> Response:
    """The page that the query asks for; one that says so where it asks for what is not there."""
    raw = parse_qs(
        request.scope["query_string"].decode("ascii", "replace"), errors="surrogateescape"
    )
    asked = {key: values[0] for key, values in raw.items()}
    try:
        return await _asked(service, asked)
    except (ListMissing, HTTPException) as error:
        why = error.detail if isinstance(error, HTTPException) else str(error)
        return _page("not there", {}, [], note=_text(os.fsencode(why)), status=404)


async def _asked(service: Service, asked: dict[str, str]) -> Response:
    namespace = asked.get("ns", "")
    if not namespace:
        names = _namespaces(service)
        if len(names) != 1:
            rows = [Row(name, _link(name)) for name in names]
            return _page("store", _NAMESPACES, rows, note="" if names else "nothing here yet")
        (namespace,) = names
    if not service.place.has(namespace):
        raise HTTPException(404, "no such namespace")
    words = os.fsencode(asked.get("q", "")).strip()
    if words:
        return await _found(service, namespace, asked.get("list", ""), words)
    if "list" not in asked:
        return await _services(service, namespace)
    return await _directory(service, namespace, asked["list"], os.fsencode(asked.get("path", "/")))


def _namespaces(service: Service) -> list[str]:
    service.place.check()
    with os.scandir(service.place.root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return [name for name in names if not name.startswith(".") and name not in RESERVED]


async def _services(service: Service, namespace: str) -> Response:
    store = service.place.store(namespace)
    deadline = trio.current_time() + PATIENCE
    now = time.time_ns()
    rows = []
    unread = 0
    for name in await store.lists():
        one = await service.catalog.facts(namespace, store, name, deadline)
        if one is None:
            continue
        known = one.entries is not None
        unread += one.why == "not read yet"
        rows.append(
            Row(
                str(name),
                _link(namespace, str(name)),
                f"{one.entries:,}" if known else "",
                size_text(one.size) if known else "",
                Age(_moment(one.mtime_ns), _ago(now - one.mtime_ns)),
                why=one.why,
                tag=bool(name.tag),
            )
        )
    note = f"{unread} lists were not read yet: reload the page" if unread else ""
    note = note if rows else "no service yet"
    crumbs = [Row(namespace, _link(namespace))]
    return _page(namespace, _SERVICES, rows, crumbs=crumbs, namespace=namespace, note=note)


async def _directory(service: Service, namespace: str, text: str, path: bytes) -> Response:
    tree = await _tree(service, namespace, text)
    try:
        node = tree.resolve(path)
    except PathMissing as error:
        raise HTTPException(404, str(error)) from error
    crumbs = [Row(namespace, _link(namespace)), Row(text, _link(namespace, text))]
    parts = [part for part in tree.path(node).split(b"/") if part]
    for depth, part in enumerate(parts, 1):
        crumbs.append(Row(_text(part), _link(namespace, text, b"/" + b"/".join(parts[:depth]))))
    nodes = tree.children(node) if tree.is_directory(node) else range(node, node + 1)
    rows = list(_rows(tree, nodes, namespace, text))
    note = f"the first {ROWS} of {len(nodes)}" if len(nodes) > ROWS else ""
    note = note if rows else "an empty directory"
    return _page(text, _FILES, rows, crumbs=crumbs, namespace=namespace, within=text, note=note)


def _rows(tree: Tree, nodes: range, namespace: str, text: str) -> Iterator[Row]:
    for number in nodes[:ROWS]:
        node = Node(number)
        mode = tree.modes[node]
        regular, directory = stat.S_ISREG(mode), stat.S_ISDIR(mode)
        digest = tree.digest(node)
        blob = f"/{layout.blob(namespace, digest)}" if regular else ""
        name = _text(tree.names[node])
        moment = _moment(tree.columns.mtimes[node])
        yield Row(
            name + "/" * directory,
            _link(namespace, text, tree.path(node)) if directory else blob,
            stat.filemode(mode),
            size_text(tree.sizes[node]) if regular else "",
            Age(moment, moment),
            digest.hex() if regular else "",
            blob,
            name if regular else "",
            _text(tree.target(node)) if stat.S_ISLNK(mode) else "",
        )


async def _tree(service: Service, namespace: str, text: str) -> Tree:
    try:
        return await service.catalog.tree(
            namespace, service.place.store(namespace), parse_name(text)
        )
    except BadName as error:
        raise HTTPException(404, "no such service") from error
    except BadList as error:
        raise HTTPException(404, f"{text} cannot be read: {error.reason}") from error


async def _found(service: Service, namespace: str, text: str, words: bytes) -> Response:
    store = service.place.store(namespace)
    try:
        names = [parse_name(text)] if text else await store.lists()
    except BadName as error:
        raise HTTPException(404, "no such service") from error
    deadline = trio.current_time() + 5 * PATIENCE
    hits, whole = await service.catalog.search(namespace, store, names, words, deadline)
    rows = [
        Row(
            _text(hit.path),
            _link(namespace, str(hit.name), os.path.dirname(hit.path)),
            str(hit.name),
            size=size_text(hit.size),
            digest=hit.digest.hex() if any(hit.digest) else "",
            blob=f"/{layout.blob(namespace, hit.digest)}" if any(hit.digest) else "",
        )
        for hit in hits
    ]
    note = f"{len(rows)} found" if whole else f"the first {len(rows)}; there may be more"
    crumbs = [Row(namespace, _link(namespace))]
    crumbs += [Row(text, _link(namespace, text))] if text else []
    shown = _text(words)
    return _page(
        shown,
        _HITS,
        rows,
        crumbs=crumbs,
        namespace=namespace,
        within=text,
        words=shown,
        note=note,
    )


def _page(
    title: str,
    heads: dict[str, str],
    rows: list[Row],
    *,
    crumbs: Sequence[Row] = (),
    namespace: str = "",
    within: str = "",
    words: str = "",
    note: str = "",
    status: int = 200,
) -> Response:
    """A page: where one is, what is searched and for what, a word about it, and a table."""
    text = _TEMPLATES.get_template("page.html").render(
        title=title,
        heads=heads,
        rows=rows,
        crumbs=crumbs,
        namespace=namespace,
        within=within,
        words=words,
        note=note,
    )
    return HTMLResponse(text.encode("utf-8", "backslashreplace"), status, _HEADERS)


def _link(namespace: str, name: str = "", path: bytes = b"") -> str:
    parts = [("ns", os.fsencode(namespace)), ("list", os.fsencode(name)), ("path", path)]
    return "/?" + "&".join(f"{key}={quote_from_bytes(value)}" for key, value in parts if value)


def _text(name: bytes) -> str:
    """A name as people can read it; bytes that are no text, and control characters, escaped."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _moment(mtime_ns: int) -> str:
    """To the minute, in UTC: a list says nothing of where it was made."""
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(mtime_ns // 1_000_000_000))


def _ago(age_ns: int) -> str:
    """The two largest units are never both worth reading: ``3 days``."""
    seconds = age_ns // 1_000_000_000
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (count := seconds // length) > 0:
            return f"{count:,} {unit}{'s' * (count > 1)}"
    return "now"
