"""The names in a directory, from the page that a web server shows of it.

Serves the HTTP store. Pure. Reads what nginx (HTML and JSON), Apache, lighttpd, Caddy and Python's
own server write: of HTML only where its links lead counts.
"""

import json
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit


def names_in(page: bytes, url: str) -> list[str]:
    """The files directly below ``url``, which ends with a slash, sorted; None twice."""
    text = page.decode("utf-8", "surrogateescape")
    found = _of_json(text) if text.lstrip()[:1] in ("[", "{") else _of_html(text, url)
    return sorted(filter(_can_be_asked_for, set(found)))


def _can_be_asked_for(name: str) -> bool:
    """Bytes that are no UTF-8 are surrogates here, as in ``os.fsdecode``; no others can be sent."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _of_json(text: str) -> list[str]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(entries, list):
        return []
    files = (one for one in entries if isinstance(one, dict) and one.get("type") != "directory")
    names = (one.get("name") for one in files)
    return [name for name in names if isinstance(name, str) and name and "/" not in name]


def _of_html(text: str, url: str) -> list[str]:
    reader = _Links()
    reader.feed(text)
    reader.close()
    here = urlsplit(url)
    found = []
    for link in reader.links:
        try:
            there = urlsplit(urljoin(url, link))
        except ValueError:
            continue
        name = unquote(there.path.removeprefix(here.path), errors="surrogateescape")
        inside = there.path.startswith(here.path) and there.netloc == here.netloc
        if inside and name and "/" not in name and not there.query:
            found.append(name)
    return found


class _Links(HTMLParser):
    """Collects where a page's links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]
