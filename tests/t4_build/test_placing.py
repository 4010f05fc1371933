"""Exports in a real container: what goes where, what stays, and what is refused."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aysfs.build.checkout import Checkouts
from aysfs.build.container import Container
from aysfs.build.placing import Placed, place
from aysfs.build.recipe import GitExport, WebExport
from aysfs.errors import BuildFailed
from tests.docker_host import GitRepository

TREE: dict[str, str | bytes | Path | None] = {
    "bin/run": "#!/bin/sh\necho run\n",
    "bin/deep/er": "1",
    "bin/link": Path("run"),
    "bin/out": Path("/etc/passwd"),
    "file": "file\n",
    "up": Path("../.."),
    "inside": Path("bin/deep"),
    "naïve name": "2",
}


class Site:
    """A container, and a repository that its exports come from."""

    def __init__(self, container: Container, repository: GitRepository, code: Path) -> None:
        self.container = container
        self.repository = repository
        self.checkouts = Checkouts(code)
        self.notes: list[str] = []

    def export(self, source: str = "", dest: str = "/opt/x", **more: object) -> GitExport:
        values = {"url": self.repository.url, "source": source, "dest": dest, "key": "git.export.1"}
        return GitExport(**(values | more))  # type: ignore[arg-type] # any field

    def place(self, *exports: GitExport | WebExport) -> Placed:
        git = [one for one in exports if isinstance(one, GitExport)]
        web = [one for one in exports if isinstance(one, WebExport)]
        return place(git, web, self.container, self.checkouts, self.notes.append)

    def refusal(self, *exports: GitExport | WebExport) -> str:
        with pytest.raises(BuildFailed) as caught:
            self.place(*exports)
        return str(caught.value)

    def sh(self, command: str) -> str:
        code, said = self.container.output(command)
        assert code == 0
        return said.decode()

    def tree(self, path: str = "/opt/x") -> list[str]:
        """Every entry below a path: mode, owner, type, name, target."""
        said = self.sh(
            f"find {path} -mindepth 1 -printf '%m %u:%g %y %P %l\\n' | LC_ALL=C sort -k4"
        )
        return [line.strip() for line in said.splitlines()]


@pytest.fixture
def site(container: Container, repository: GitRepository, tmp_path: Path) -> Site:
    repository.commit(TREE)
    return Site(container, repository, tmp_path / "code")


# --- git.export --------------------------------------------------------------------------


def test_a_folder_arrives_with_modes_links_owner_and_the_time_of_the_commit(site: Site) -> None:
    placed = site.place(site.export("bin", "/opt/a/x"))
    assert site.tree("/opt/a") == [
        "755 root:root d x",
        "755 root:root d x/deep",
        "644 root:root f x/deep/er",
        "777 root:root l x/link run",
        "777 root:root l x/out /etc/passwd",
        "755 root:root f x/run",
    ]
    assert set(site.sh("find /opt/a/x -printf '%T@\n'").split()) == {
        f"{site.repository.time}.0000000000"
    }
    assert placed.pairs == [("/opt/code/local/acme/tools/bin", "/opt/a/x")]
    assert placed.revisions == {site.repository.url: site.repository.git("rev-parse", "HEAD")}


def test_the_whole_repository_arrives_without_its_git_folder(site: Site) -> None:
    site.place(site.export())
    names = set(site.sh("ls -A /opt/x").splitlines())
    assert names == {"bin", "file", "inside", "naïve name", "up"}


def test_a_star_is_each_file_and_folder_one_level_deep_once(site: Site) -> None:
    placed = site.place(site.export("*"), site.export("bin/*", "/opt/y", nodirs=True))
    code = "/opt/code/local/acme/tools"
    assert placed.pairs == [
        *((f"{code}/{name}", f"/opt/x/{name}") for name in ("bin", "file", "inside", "naïve name")),
        (f"{code}/up", "/opt/x/up"),
        *((f"{code}/bin/{name}", f"/opt/y/{name}") for name in ("link", "out", "run")),
    ]
    assert site.sh("ls -A /opt/y").split() == ["link", "out", "run"]
    assert site.sh("cat /opt/x/bin/deep/er") == "1"


def test_a_file_is_its_destination_or_goes_into_a_folder(site: Site) -> None:
    placed = site.place(
        site.export("file", "/opt/a/renamed"),
        site.export("file", "/opt/b/"),
        site.export("bin/run", "/usr"),
        site.export("inside", "/opt/c"),
    )
    assert [dest for _, dest in placed.pairs] == [
        *("/opt/a/renamed", "/opt/b/file", "/usr/run", "/opt/c"),
    ]
    assert (
        site.sh("cat /opt/a/renamed /opt/b/file; /usr/run; cat /opt/c/er") == "file\nfile\nrun\n1"
    )


def test_folders_are_merged_and_nothing_is_erased(site: Site) -> None:
    site.sh("mkdir -p /opt/x/deep && chmod 1777 /opt/x/deep")
    site.sh("touch /opt/x/deep/own && echo old >/opt/x/run")
    site.place(site.export("bin"))
    assert site.sh("ls /opt/x/deep").split() == ["er", "own"]
    assert site.sh("stat -c %a /opt/x/deep").strip() == "1777"
    assert site.sh("/opt/x/run") == "run\n"


def test_without_overwrite_what_is_there_stays(site: Site) -> None:
    site.sh("mkdir -p /opt/x/run && echo old >/opt/x/deep && ln -s nowhere /opt/x/link")
    site.place(site.export("bin", overwrite=False))
    assert site.sh("cat /opt/x/deep; readlink /opt/x/link; ls /opt/x/run") == "old\nnowhere\n"
    assert site.sh("readlink /opt/x/out") == "/etc/passwd\n"


def test_what_would_replace_a_folder_or_a_link_to_one_is_refused(site: Site) -> None:
    site.sh("mkdir -p /opt/x/run /opt/y && ln -s /etc /opt/y/deep && touch /opt/z")
    assert site.refusal(site.export("bin")) == (
        "git.export.1: /opt/x/run is a folder in the container, and a file or link here"
    )
    assert site.refusal(site.export("bin", "/opt/y")) == (
        "git.export.1: /opt/y/deep is a file or link in the container, and a folder here"
    )
    assert "File exists" in site.refusal(site.export("bin", "/opt/z"))
    assert "Not a directory" in site.refusal(site.export("bin", "/opt/z/below"))
    assert site.sh("ls /opt/x/run; test ! -e /etc/er && test -f /opt/z") == ""


def test_a_destination_may_be_reached_through_links(site: Site) -> None:
    site.sh("mkdir /data && ln -s /data /opt/linked")
    site.place(site.export("bin", "/opt/linked/x"), site.export("file", "/opt/linked/f"))
    assert site.sh("ls /data /data/x").split() == [
        *("/data:", "f", "x", "/data/x:", "deep", "link", "out", "run"),
    ]
    assert site.sh("readlink /opt/linked") == "/data\n"


def test_the_root_of_the_container_is_merged_into(site: Site) -> None:
    site.repository.commit({"top/tmp/x": "1", "top/opt/new/y": "2"})
    site.place(site.export("top", "/"))
    assert site.sh("cat /tmp/x /opt/new/y; stat -c %a /tmp") == "121777\n"


def test_a_link_leads_to_the_checkout_in_the_container(site: Site) -> None:
    site.sh("mkdir -p /opt/old/things /opt/kept && ln -s nowhere /opt/wrong")
    placed = site.place(
        site.export("bin", "/opt/a/x", link=True),
        site.export("file", "/opt/old", link=True),
        site.export("file", "/opt/kept", link=True, overwrite=False),
        site.export("", "/opt/wrong", link=True),
    )
    code = "/opt/code/local/acme/tools"
    assert site.sh("readlink /opt/a/x /opt/old /opt/wrong").split() == [
        *(f"{code}/bin", f"{code}/file", code),
    ]
    assert site.sh("/opt/a/x/run; test -d /opt/kept") == "run\n"
    assert placed.pairs[0] == (f"{code}/bin", "/opt/a/x")


def test_links_to_two_commits_of_a_repository_lead_to_two_checkouts(site: Site) -> None:
    first = site.repository.git("rev-parse", "HEAD")
    second = site.repository.commit({"file": "newer\n"})
    placed = site.place(
        site.export("file", "/opt/a", link=True),
        site.export("file", "/opt/b", link=True, revision=first),
    )
    assert site.sh("cat /opt/a /opt/b") == "newer\nfile\n"
    url = site.repository.url
    assert placed.revisions == {url: second, f"{url}@{first}": first}


def test_an_export_for_another_platform_is_left_out_with_a_word(site: Site) -> None:
    placed = site.place(site.export("nope", platform=("darwin",)), site.export("file", "/f"))
    assert [dest for _, dest in placed.pairs] == ["/f"]
    assert site.notes[0] == "git.export.1: left out: it is for darwin, and this is debian64"


def test_a_source_that_is_not_there_or_leads_out_is_refused(site: Site) -> None:
    assert site.refusal(site.export("nope")) == "git.export.1: there is no nope in the repository"
    assert (
        site.refusal(site.export("file/*")) == "git.export.1: file is no folder of the repository"
    )
    for source in ("up", "up/etc", "bin/out", "up/*"):
        assert re.search("leads out of the repository", site.refusal(site.export(source)))
    assert site.sh("ls /opt") == ""


# --- web.export --------------------------------------------------------------------------


class Pages(BaseHTTPRequestHandler):
    """A few files; ``/to/...`` leads on to the same path without ``/to``."""

    files: dict[str, bytes]
    url: str

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[3:])
            data = b""
        elif self.path in self.files:
            self.send_response(200)
            self.send_header("Last-Modified", "Fri, 14 Jul 2017 02:40:00 GMT")
            data = self.files[self.path]
        else:
            self.send_response(404)
            data = b"nothing"
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def pages() -> Iterator[type[Pages]]:
    class Handler(Pages):
        files = {}  # noqa: RUF012 - one server only

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Handler.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield Handler
        server.shutdown()
        thread.join()


def test_a_download_is_checked_and_placed(site: Site, pages: type[Pages]) -> None:
    data = b"x" * 3_000_000
    pages.files["/d/f.tgz"] = data
    pages.files["/d/f.tgz.md5sum"] = f"{hashlib.md5(data).hexdigest()}  f.tgz\n".encode()
    placed = site.place(
        WebExport(f"{pages.url}/d", "f.tgz", "/opt/a/f", checkmd5=True),
        WebExport(f"{pages.url}/to/d/", "f.tgz", "/opt/g"),
    )
    assert placed.pairs == [
        (f"{pages.url}/d/f.tgz", "/opt/a/f"),
        (f"{pages.url}/to/d/f.tgz", "/opt/g"),
    ]
    assert site.sh("stat -c '%a %u %s %Y' /opt/a/f /opt/g") == "644 0 3000000 1500000000\n" * 2


def test_a_download_that_fails_or_is_not_what_was_promised_is_refused(
    site: Site, pages: type[Pages]
) -> None:
    pages.files |= {"/f": b"1", "/f.md5sum": b"0" * 32, "/g": b"1", "/h": b"1", "/h.md5sum": b"?"}
    pages.files["/i"] = b""

    def said(name: str, url: str = pages.url, *, check: bool = True) -> str:
        return site.refusal(WebExport(url, name, "/opt/f", check, "web.export.1"))

    md5 = hashlib.md5(b"1").hexdigest()
    assert said("f") == (
        f"web.export.1: {pages.url}/f: its md5 is {md5}, and .md5sum says {'0' * 32}"
    )
    assert said("g").endswith("/g: .md5sum: the server says 404")
    assert said("h").endswith("/h: .md5sum holds no md5")
    assert said("nope", check=False).endswith("/nope: the server says 404")
    down = said("f", "http://me:hunter2@127.0.0.1:1")
    assert down.startswith("web.export.1: http://127.0.0.1:1/f: cannot be downloaded: ")
    assert "hunter2" not in down
    assert site.sh("ls /opt") == ""
