"""The page for people at ``/``: what a store holds, to look at and to search.

Serves browsers. Plain HTML from templates that escape everything; no script. Owns the page's
addresses: ``/?ns=NAMESPACE&list=NAME&path=PATH`` and ``q=WORDS``. Names are bytes, so
they are read from the raw query, and shown with what is no text escaped.
"""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote_from_bytes

import jinja2
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from aysfs.errors import BadList, BadName, PathMissing
from aysfs.names import parse_name
from aysfs.server.place import RESERVED
from aysfs.server.service import Service
from aysfs.sizes import size_text
from aysfs.store import layout
from aysfs.tree import Node, Tree

ROWS = 5000
PATIENCE = 2.0  # seconds that a page may read lists for

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Row(NamedTuple):
    """A line of a table: what it says, where it leads, and where its bytes are."""

    text: str
    link: str
    kind: str = ""
    size: str = ""
    age: str = ""
    digest: str = ""
    blob: str = ""


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "pages")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


_TEMPLATES = _environment()


async def get_page(service: Service, request: Request) -> Response:
    """The page that the query asks for."""
    raw = parse_qs(
        request.scope["query_string"].decode("ascii", "replace"), errors="surrogateescape"
    )
    asked = {key: values[0] for key, values in raw.items()}
    namespace = asked.get("ns", "")
    if not namespace:
        return _page(
            "store", rows=_namespaces(service), crumbs=[], words="", ns="", list="", note=""
        )
    if not service.place.has(namespace):
        raise HTTPException(404, "no such namespace")
    words = os.fsencode(asked.get("q", "")).strip()
    if words:
        return await _found(service, namespace, asked.get("list", ""), words)
    if "list" not in asked:
        return await _services(service, namespace)
    return await _directory(service, namespace, asked["list"], os.fsencode(asked.get("path", "/")))


def _namespaces(service: Service) -> list[Row]:
    service.place.check()
    with os.scandir(service.place.root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    shown = [name for name in names if not name.startswith(".") and name not in RESERVED]
    return [Row(name, _link(name), "namespace") for name in shown]


async def _services(service: Service, namespace: str) -> Response:
    store = service.place.store(namespace)
    deadline = trio.current_time() + PATIENCE
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
                f"{one.entries} entries" if known else one.why,
                size_text(one.size) if known else "",
                _age(one.mtime_ns),
            )
        )
    note = f"{unread} lists were not read yet: reload the page" if unread else ""
    crumbs = [Row(namespace, _link(namespace))]
    return _page(namespace, rows=rows, crumbs=crumbs, words="", ns=namespace, list="", note=note)


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
    return _page(text, rows=rows, crumbs=crumbs, words="", ns=namespace, list=text, note=note)


def _rows(tree: Tree, nodes: range, namespace: str, text: str) -> Iterator[Row]:
    for number in nodes[:ROWS]:
        node = Node(number)
        mode = tree.modes[node]
        regular = stat.S_ISREG(mode)
        digest = tree.digest(node)
        target = f" -> {_text(tree.target(node))}" if stat.S_ISLNK(mode) else ""
        yield Row(
            _text(tree.names[node]) + ("/" if stat.S_ISDIR(mode) else "") + target,
            _link(namespace, text, tree.path(node)) if stat.S_ISDIR(mode) else "",
            stat.filemode(mode),
            size_text(tree.sizes[node]) if regular else "",
            _age(tree.columns.mtimes[node]),
            digest.hex() if regular else "",
            f"/{layout.blob(namespace, digest)}" if regular else "",
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
            f"{hit.name}: {_text(hit.path)}",
            _link(namespace, str(hit.name), os.path.dirname(hit.path)),
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
    return _page(shown, rows=rows, crumbs=crumbs, words=shown, ns=namespace, list=text, note=note)


def _page(title: str, **told: object) -> Response:
    text = _TEMPLATES.get_template("page.html").render(title=title, **told)
    return HTMLResponse(text.encode("utf-8", "backslashreplace"), headers=_HEADERS)


def _link(namespace: str, name: str = "", path: bytes = b"") -> str:
    parts = [("ns", os.fsencode(namespace)), ("list", os.fsencode(name)), ("path", path)]
    return "/?" + "&".join(f"{key}={quote_from_bytes(value)}" for key, value in parts if value)


def _text(name: bytes) -> str:
    """A name as people can read it; bytes that are no text, and control characters, escaped."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _age(mtime_ns: int) -> str:
    moment = time.gmtime(mtime_ns // 1_000_000_000)
    return time.strftime("%Y-%m-%d %H:%M", moment)
