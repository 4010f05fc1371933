"""The page for people, as a browser without scripts gets it."""

import html
import re
from urllib.parse import urljoin

import pytest

from tests.store_server import StoreServer


def page(server: StoreServer, path: str) -> str:
    answer = server.web.get(urljoin(server.url, path))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    return answer.text


def links(text: str) -> dict[str, str]:
    """Where the words of a page lead."""
    found = re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)', text)
    return {html.unescape(words): html.unescape(where) for where, words in found}


def test_a_person_finds_a_file_by_following_links(shown: StoreServer) -> None:
    namespaces = links(page(shown, "/"))
    services = page(shown, namespaces["dedupe"])
    assert '<td class="count">6</td>' in services
    below = page(shown, links(services)["jumpscale__redis@1.2"])
    assert "link → bin/redis-server" in below
    inside = page(shown, links(below)["bin/"])
    md5 = "cf1e8c14e54505f60aa10ceb8d5d8ab3"
    blob = shown.web.get(urljoin(shown.url, links(inside)[md5]))
    assert blob.content == b"server"
    assert links(inside)["redis-server"] == links(inside)[md5]
    assert 'download="redis-server"' in inside


def test_names_are_shown_and_never_obeyed(shown: StoreServer) -> None:
    text = page(shown, "/?ns=dedupe&list=jumpscale__redis")
    assert "&lt;script&gt;alert(1)&lt;|script&gt;&amp;" in text
    assert r"odd\xff\n" in text
    for query in ("q=%3Cscript%3E", "q=%22%3E%3Cscript%3E", "q=%ff", "q=%00", "q=odd%ff"):
        page(shown, f"/?ns=dedupe&{query}")


def test_a_list_that_cannot_be_read_says_why(shown: StoreServer) -> None:
    assert "columns" in page(shown, "/?ns=dedupe")
    answer = shown.web.get(f"{shown.url}/?ns=dedupe&list=jumpscale__broken")
    assert (answer.status_code, "cannot be read" in answer.text) == (404, True)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("redis-ser", 2),
        ("bin/redis", 2),
        ("cf1e8c14e54505f60aa10ceb8d5d8ab3", 2),
        ("0" * 32, 0),
        ("nothing like it", 0),
    ],
)
def test_paths_and_md5_are_searched(shown: StoreServer, words: str, found: int) -> None:
    text = page(shown, f"/?ns=dedupe&q={words}")
    assert f"{found} found" in text
    inside = page(shown, f"/?ns=dedupe&list=jumpscale__redis&q={words}")
    assert f"{found // 2} found" in inside


@pytest.mark.parametrize(
    "query",
    [
        "ns=none",
        "ns=..",
        "ns=%2e%2e%2f",
        "ns=.upstream",
        "ns=dedupe&list=none",
        "ns=dedupe&list=../x",
        "ns=dedupe&list=a%00b",
        "ns=dedupe&list=jumpscale__redis&path=/none",
        "ns=dedupe&list=../x&q=y",
    ],
)
def test_what_is_not_there_is_404(shown: StoreServer, query: str) -> None:
    answer = shown.web.get(f"{shown.url}/?{query}")
    assert answer.status_code == 404
    assert '<a href="/">store</a>' in answer.text


def test_no_path_leads_out_of_a_service(shown: StoreServer) -> None:
    text = page(shown, "/?ns=dedupe&list=jumpscale__redis&path=/../../bin/../../bin")
    assert "redis-server" in text
