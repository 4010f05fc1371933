"""The page for people in a real browser, Chromium without a window."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.store_server import StoreServer

PHONE: ViewportSize = {"width": 360, "height": 640}
MD5 = "cf1e8c14e54505f60aa10ceb8d5d8ab3"  # of bin/redis-server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "scripts/setup.sh installs Debian's chromium"
    with sync_playwright() as playwright:
        # root has no sandbox; what is shown is our own.
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, shown: StoreServer) -> Iterator[Page]:
    """A tab that shows what the server shows first. It must end without a complaint."""
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        complaints.append(message.text)

    def failed(error: Error) -> None:
        complaints.append(str(error))

    def asked(dialog: Dialog) -> None:
        complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    tab = browser.new_page(base_url=shown.url)
    tab.set_default_timeout(20_000)
    tab.on("console", heard)
    tab.on("pageerror", failed)
    tab.on("dialog", asked)
    tab.goto("/")
    yield tab
    tab.close()
    assert complaints == []


def row(page: Page, name: str) -> list[str]:
    """The cells of the row whose link is this."""
    line = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
    return line.get_by_role("cell").all_inner_texts()


def follow(page: Page, *names: str) -> None:
    for name in names:
        page.get_by_role("link", name=name, exact=True).first.click()


def search(page: Page, words: str) -> None:
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("button", name="Search").click()


def downloaded(page: Page, name: str) -> tuple[str, bytes]:
    """What a click on a name brings: the name it is kept under, and the bytes."""
    with page.expect_download() as caught:
        follow(page, name)
    return caught.value.suggested_filename, Path(caught.value.path()).read_bytes()


def test_from_the_services_to_the_bytes_of_a_file(page: Page) -> None:
    for name in ("jumpscale__redis", "jumpscale__redis@1.2"):
        shown, entries, size, age = row(page, name)
        assert (shown, entries, size) == (name, "6", "14 B")
        assert re.fullmatch(r"now|\d+ minutes?", age)
    follow(page, "jumpscale__redis@1.2", "bin/")
    _, mode, size, _, md5 = row(page, "redis-server")
    assert (mode, size, md5) == ("-rw-r--r--", "6 B", MD5)
    assert downloaded(page, "redis-server") == ("redis-server", b"server")
    follow(page, "jumpscale__redis@1.2")  # the way back, above the table
    expect(page.get_by_role("link", name="bin/", exact=True)).to_be_visible()


@pytest.mark.parametrize("words", ["redis-ser", MD5])
def test_a_path_and_an_md5_are_found(page: Page, words: str) -> None:
    search(page, words)
    expect(page.get_by_text("2 found")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_have_value(words)
    follow(page, "/opt/redis/bin/redis-server")
    assert downloaded(page, "redis-server")[1] == b"server"
    search(page, words)  # below a service, of this one
    expect(page.get_by_text("1 found")).to_be_visible()


def test_what_is_not_found_and_what_is_not_there_is_said(page: Page, shown: StoreServer) -> None:
    search(page, "nothing like it")
    expect(page.get_by_text("0 found")).to_be_visible()
    text = shown.web.get(f"{shown.url}/?ns=dedupe&list=jumpscale__none").text
    page.set_content(text)  # the browser itself notes every 404 in its console
    expect(page.get_by_role("link", name="store", exact=True)).to_be_visible()
    assert "jumpscale__none" in page.inner_text("main")


def test_names_run_nothing(page: Page) -> None:
    follow(page, "jumpscale__redis")
    evil = "<script>alert(1)<|script>&'\""
    assert row(page, evil)[0] == evil
    assert downloaded(page, evil)[1] == b"evil"
    assert row(page, "odd\\xff\\n")[2] == "4 B"
    for words in (evil, '"><script>alert(1)</script>', "<img src=x onerror=alert(1)>"):
        search(page, words)
        expect(page.get_by_role("searchbox")).to_have_value(words)
    assert page.locator("script, img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_of_it_is_used_with_a_thumb(page: Page, scheme: Literal["light", "dark"]) -> None:
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme=scheme)
    for name in ("dedupe", "jumpscale__redis", "bin/"):
        follow(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    expect(page.get_by_text("redis-server")).to_be_in_viewport()
    search(page, "redis")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    expect(page.get_by_text("1 found")).to_be_in_viewport()


def test_all_of_it_is_used_without_a_mouse(page: Page) -> None:
    def focused() -> str:
        page.keyboard.press("Tab")
        told = "e => e.labels?.[0]?.innerText || e.innerText"
        return str(page.evaluate(f"({told})(document.activeElement)"))

    reached = [focused() for _ in range(7)]
    assert reached[:4] == ["store", "dedupe", "in every service", "Search"]
    assert reached[4:] == ["jumpscale__broken", "jumpscale__redis", "jumpscale__redis@1.2"]
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="bin/", exact=True)).to_be_visible()
    for _ in range(4):
        focused()
    page.keyboard.type("redis-ser")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 found")).to_be_visible()
