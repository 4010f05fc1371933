"""Checkouts: the wanted commit's files and no others, every refusal, and no password anywhere."""

import base64
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aysfs.build.checkout import Checkouts, code_path
from aysfs.build.recipe import GitExport
from aysfs.errors import BuildFailed
from tests.docker_host import GitRepository, Sshd

SECRET = "hunter2-in-no-process-list"


@pytest.fixture
def checkouts(tmp_path: Path) -> Checkouts:
    return Checkouts(tmp_path / "code")


def export(repository: GitRepository, **more: object) -> GitExport:
    values: dict[str, object] = {"key": "git.export.1", "dest": "/x", "source": ""}
    return GitExport(**({"url": repository.url} | values | more))  # type: ignore[arg-type] # any field


def files(folder: Path) -> dict[str, str]:
    return {
        str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()
    }


def refusal(checkouts: Checkouts, wanted: GitExport) -> str:
    with pytest.raises(BuildFailed) as caught, checkouts.open(wanted):
        pass
    return str(caught.value)


# --- what is checked out -----------------------------------------------------------------


def test_a_checkout_is_the_head_of_the_repository(
    checkouts: Checkouts, repository: GitRepository
) -> None:
    commit = repository.commit({"bin/run": "#!/bin/sh\n", "data": "1", "link": Path("data")})
    with checkouts.open(export(repository)) as found:
        assert found.commit == commit
        assert found.time == repository.time
        assert sorted(os.listdir(found.folder)) == ["bin", "data", "link"]
        assert os.access(found.folder / "bin/run", os.X_OK)
        assert os.readlink(found.folder / "link") == "data"
    assert not found.folder.exists()
    newer = repository.commit({"data": "2"})
    assert checkouts.latest(export(repository)) == newer
    with checkouts.open(export(repository)) as found:
        assert found.commit == newer
        assert (found.folder / "data").read_text() == "2"


def test_branches_tags_and_commits_are_found_however_they_are_named(
    checkouts: Checkouts, repository: GitRepository
) -> None:
    first = repository.commit({"a": "1"})
    repository.git("tag", "v1")
    second = repository.commit({"a": "2"})
    repository.git("checkout", "-q", "-b", "side/1.x")
    third = repository.commit({"a": "3"})
    repository.git("checkout", "-q", "main")
    cases: list[tuple[dict[str, object], str]] = [
        ({"branch": "side/1.x"}, third),
        ({"branch": "main", "depth": None}, second),
        ({"revision": first}, first),
        ({"revision": "v1"}, first),
        ({"revision": second[:10]}, second),
        ({"revision": third, "branch": "side/1.x"}, third),
        ({"depth": 1}, second),
    ]
    for more, commit in cases:
        with checkouts.open(export(repository, **more)) as found:
            assert found.commit == commit
        assert checkouts.latest(export(repository, **more)) == commit


def test_a_depth_bounds_the_history_that_is_fetched(
    checkouts: Checkouts, repository: GitRepository, tmp_path: Path
) -> None:
    for number in range(5):
        repository.commit({"a": str(number)})

    def history() -> int:
        (bare,) = (tmp_path / "code").rglob("HEAD")
        words = ["git", f"--git-dir={bare.parent}", "rev-list", "--count", "refs/aysfs/wanted"]
        return int(subprocess.check_output(words))

    for depth, count in [(1, 1), (3, 3), (None, 5)]:
        with checkouts.open(export(repository, depth=depth)):
            assert history() == count


def test_many_at_once_in_one_repository_get_what_they_asked_for(
    checkouts: Checkouts, repository: GitRepository
) -> None:
    repository.commit({"a": "main"})
    for name in "bcd":
        repository.git("checkout", "-q", "-b", name)
        repository.commit({"a": name})

    def read(branch: str) -> dict[str, str]:
        with checkouts.open(export(repository, branch=branch)) as found:
            return files(found.folder)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, "bcdbcd")) == [{"a": name} for name in "bcdbcd"]


def test_trees_of_a_process_that_died_are_removed(
    checkouts: Checkouts, repository: GitRepository, tmp_path: Path
) -> None:
    repository.commit({"a": "1"})
    with checkouts.open(export(repository)) as kept:
        left = kept.folder.parent / "left"
        left.mkdir()
        (left / "file").touch()
        with checkouts.open(export(repository)):
            assert not left.exists()
            assert kept.folder.is_dir()


def test_a_repository_over_ssh_is_reached_with_the_users_keys(
    tmp_path: Path, repository: GitRepository, sshd: Sshd
) -> None:
    commit = repository.commit({"a": "1"})
    url = f"ssh://{sshd.login}@{sshd.host}:{sshd.port}{repository.folder}"
    checkouts = Checkouts(tmp_path / "code", ssh_config=sshd.ssh_config())
    with checkouts.open(export(repository, url=url)) as found:
        assert found.commit == commit
    sshd.known_hosts.write_text("")
    assert "the host key is not known" in refusal(checkouts, export(repository, url=url))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://github.com/Jumpscale/Jumpscale_Core8.git", "github/jumpscale/jumpscale_core8"),
        ("http://git.aydo.com/binary/redis", "git/binary/redis"),
        ("git@github.com:a/b.git", "github/a/b"),
        ("ssh://git@10.0.0.1:2222/srv/x/y", "10.0.0.1/x/y"),
        ("file:///srv/git/a/b/", "local/a/b"),
        ("/repo", "local/_/repo"),
        ("https://h/../..", "h/_/_"),
        ("https://h/a/b c$(x)", "h/a/b-c--x-"),
    ],
)
def test_a_url_has_its_place_below_the_code(url: str, path: str) -> None:
    assert code_path(url) == path


# --- nothing that a repository says is run -----------------------------------------------


def test_filters_hooks_and_submodules_of_a_repository_are_not_followed(
    checkouts: Checkouts, repository: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    config = tmp_path / "gitconfig"
    config.write_text(f'[filter "x"]\n\tsmudge = touch {ran}\n[core]\n\tautocrlf = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(config.read_text())
    repository.commit({".gitattributes": "* filter=x\n", "a": "1\n"})
    repository.commit({".gitmodules": '[submodule "s"]\n\tpath = s\n\turl = ext::touch /x\n'})
    with checkouts.open(export(repository)) as found:
        assert (found.folder / "a").read_bytes() == b"1\n"
    assert not ran.exists()


# --- refusals ----------------------------------------------------------------------------


def test_what_is_not_there_is_refused_by_name(
    checkouts: Checkouts, repository: GitRepository, tmp_path: Path
) -> None:
    repository.commit({"a": "1"})
    url = repository.url
    assert refusal(checkouts, export(repository, branch="nope")) == (
        f"git.export.1: {url} (branch nope): there is no branch nope"
    )
    assert refusal(checkouts, export(repository, revision="0" * 40)) == (
        f"git.export.1: {url}: there is no revision {'0' * 40}"
    )
    assert "there is no revision v9" in refusal(checkouts, export(repository, revision="v9"))
    missing = f"file://{tmp_path}/nope"
    assert refusal(checkouts, export(repository, url=missing, branch="x")) == (
        f"git.export.1: {missing} (branch x): there is no such repository"
    )
    with pytest.raises(BuildFailed, match="there is no branch nope"):
        checkouts.latest(export(repository, branch="nope"))


def test_an_empty_repository_and_a_host_that_is_down_are_refused(
    checkouts: Checkouts, repository: GitRepository
) -> None:
    assert "the repository has no commit" in refusal(checkouts, export(repository))
    down = export(repository, url="http://127.0.0.1:1/a/b")
    assert re.search("git says: .*127.0.0.1", refusal(checkouts, down))


def test_a_host_without_git_is_told_so(
    checkouts: Checkouts, repository: GitRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refusal(checkouts, export(repository)) == "git.export.1: git is not installed"


# --- credentials -------------------------------------------------------------------------


class GitOverHttp(BaseHTTPRequestHandler):
    """git's own smart server for one login and password; looks around while it is asked."""

    root: Path
    url: str
    seen: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers["Content-Length"])))

    def _serve(self, body: bytes) -> None:
        self.seen.extend(command_lines())
        token = base64.b64encode(f"me:{SECRET}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {token}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        answer = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True
        ).stdout
        head, _, data = answer.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def command_lines() -> list[str]:
    """The command lines of all processes of this host."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture
def git_http(repository: GitRepository) -> Iterator[type[GitOverHttp]]:
    """A handler with what it saw; its server listens while the test runs."""

    class Handler(GitOverHttp):
        root = repository.folder.parent
        seen = []  # noqa: RUF012 - one server only

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Handler.url = f"http://127.0.0.1:{server.server_address[1]}/tools/.git"
        yield Handler
        server.shutdown()
        thread.join()


def test_a_password_is_in_no_command_line_and_no_file(
    checkouts: Checkouts, repository: GitRepository, git_http: type[GitOverHttp], tmp_path: Path
) -> None:
    commit = repository.commit({"a": "1"})
    wanted = export(repository, url=git_http.url, login="me", passwd=SECRET)
    with checkouts.open(wanted) as found:
        assert found.commit == commit
    assert any("git" in line and "fetch" in line for line in git_http.seen)
    assert not [line for line in git_http.seen if SECRET in line]
    assert [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ] == []


def test_a_wrong_password_is_refused_and_not_told(
    checkouts: Checkouts, repository: GitRepository, git_http: type[GitOverHttp]
) -> None:
    repository.commit({"a": "1"})
    for more in ({}, {"login": "me", "passwd": "wrong-one"}):
        wanted = export(repository, url=git_http.url, **more)
        said = refusal(checkouts, wanted)
        assert "the server wants a login and password" in said
        assert "wrong-one" not in said
