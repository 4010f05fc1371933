"""Build servers: a real sshd, the Docker behind it, and every way in which there is none."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.build import server
from aysfs.build.container import Container
from aysfs.build.engine import Docker
from aysfs.build.kinds import NodeSsh
from aysfs.build.server import bring_image, local, open_server
from aysfs.errors import ServerTrouble
from tests.docker_host import Sshd, free_port, run, small_image, unique

# The SDK leaves a socket that could not be connected to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


def node(sshd: Sshd, **more: object) -> NodeSsh:
    values = {"ip": sshd.host, "port": sshd.port, "login": sshd.login, "password": "", "sshkey": ""}
    return NodeSsh(**(values | more))  # type: ignore[arg-type] # any field


def opened(
    sshd: Sshd, wanted: NodeSsh | None = None, key: Path | None = None, passphrase: str = ""
) -> contextlib.AbstractContextManager[Docker]:
    return open_server(
        wanted or node(sshd),
        "farm",
        key=key or sshd.key,
        passphrase=passphrase,
        known_hosts=sshd.known_hosts,
    )


def trouble(
    sshd: Sshd, wanted: NodeSsh | None = None, key: Path | None = None, passphrase: str = ""
) -> ServerTrouble:
    with pytest.raises(ServerTrouble) as caught, opened(sshd, wanted, key, passphrase):
        pass
    return caught.value


def children(sshd: Sshd) -> list[int]:
    """The ssh processes that were started for this server."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0] == b"ssh" and str(sshd.port).encode() in words:
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def started(engine: Docker, image: str, name: str) -> Iterator[Container]:
    yield engine.start(image, name=name, service="test", network="none")


@pytest.fixture(autouse=True)
def nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: Docker, no_leaks: None
) -> Iterator[None]:
    """No socket, script or log of ssh outlives its block. Docker runs on this host."""
    place = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    place.rmdir()


def test_a_build_server_is_its_docker_until_the_block_ends(sshd: Sshd, base_image: str) -> None:
    with opened(sshd) as engine:
        assert engine.image_id(base_image)
        made = engine.start(
            base_image, name=f"aysfs-test-{unique()}", service="test", network="none"
        )
        try:
            for _ in range(20):  # the SDK loses the first words now and then
                assert made.output("echo here") == (0, b"here\n")
        finally:
            made.remove()
        assert len(children(sshd)) == 1
        (folder,) = Path(tempfile.gettempdir()).iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert children(sshd) == []


def test_ssh_ends_when_the_block_raises(sshd: Sshd) -> None:
    with pytest.raises(KeyboardInterrupt), opened(sshd):
        raise KeyboardInterrupt
    assert children(sshd) == []


def test_an_unknown_host_key_is_refused_with_what_to_do(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")
    said = trouble(sshd)
    assert str(said) == f"the host key of build server farm ([127.0.0.1]:{sshd.port}) is not known"
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1 >>{sshd.known_hosts}" in str(said.hint)
    assert sshd.known_hosts.read_text() == ""


def test_a_changed_host_key_is_refused_as_changed(sshd: Sshd) -> None:
    sshd.stop()
    sshd.new_host_key()
    sshd.start()
    said = trouble(sshd)
    assert str(said) == f"the host key of build server farm ([127.0.0.1]:{sshd.port}) has changed"
    assert "ssh-keygen -R" in str(said.hint)
    sshd.trust()
    with opened(sshd) as engine:
        assert engine.label == "build server farm"


def test_a_key_and_a_password_that_are_not_accepted_are_refused(sshd: Sshd, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other)
    said = str(trouble(sshd, key=other))
    assert said == f"build server farm does not let {sshd.login} in by key {other}"
    said = str(trouble(sshd, node(sshd, password="hunter2"), key=other))
    assert said.endswith(f"in by key {other} or the password")


def test_a_key_with_a_passphrase_is_opened_and_the_passphrase_is_in_no_command_line(
    sshd: Sshd,
) -> None:
    run("ssh-keygen", "-q", "-p", "-P", "", "-N", "hunter2", "-f", sshd.key)
    with opened(sshd, passphrase="hunter2"):
        (pid,) = children(sshd)
        assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert "does not let" in str(trouble(sshd, passphrase="wrong"))


def test_a_server_that_is_not_there_is_said_to_be(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    assert str(trouble(sshd, node(sshd, port=port))) == (
        f"build server farm cannot be reached: port {port} of 127.0.0.1 is closed"
    )
    said = str(trouble(sshd, node(sshd, ip="no-such-host.invalid")))
    assert said.endswith("cannot be reached: Could not resolve hostname")
    monkeypatch.setattr(server, "CONNECT", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        said = str(trouble(sshd, node(sshd, port=port)))
    assert said == f"build server farm ([127.0.0.1]:{port}) cannot be reached: timed out"
    monkeypatch.setenv("PATH", "/nowhere")
    assert str(trouble(sshd)).endswith("cannot be reached: ssh is not installed")


def test_a_server_without_docker_is_said_to_be(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SOCKET", "/nowhere/docker.sock")
    said = trouble(sshd)
    assert str(said) == "build server farm is there, and its Docker does not answer"
    assert str(said.hint) == (
        f"is Docker running there, and may {sshd.login} use /nowhere/docker.sock?"
    )


def test_a_server_that_goes_away_under_a_command_is_gone(sshd: Sshd, base_image: str) -> None:
    name = f"aysfs-test-{unique()}"

    def pull_the_plug(_: bytes) -> None:
        sshd.stop()

    with (
        pytest.raises(ServerTrouble) as caught,
        opened(sshd) as engine,
        started(engine, base_image, name) as made,
    ):
        made.run("echo started; exec sleep 60", pull_the_plug)
    assert str(caught.value).startswith("build server farm is gone: ")
    assert children(sshd) == []
    with local() as engine, started(engine, base_image, name) as left:  # in its place
        left.remove()


def test_a_server_that_falls_silent_is_gone(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ALIVE", 3)
    monkeypatch.setattr(server, "ALIVE_COUNT", 1)
    with pytest.raises(ServerTrouble) as caught, opened(sshd) as engine, sshd.silent():
        engine.image_id("x")
    assert str(caught.value).startswith("build server farm is gone: Timeout, server 127.0.0.1 not")


def test_an_image_is_brought_once(sshd: Sshd) -> None:
    name = f"aysfs-test/{unique()}:1"
    small_image(name)
    said: list[bytes] = []
    with local() as here, opened(sshd) as there:
        with pytest.raises(ServerTrouble, match="build server farm has no image aysfs-test/nope"):
            bring_image(there, here, "aysfs-test/nope", said.append)
        assert bring_image(there, here, name, said.append) == here.image_id(name)
        assert said == []
        pieces = list(there.save(name))
        before = here.image_id(name)
        run("docker", "rmi", name)
        here.load(pieces)
        assert here.image_id(name) == before
    run("docker", "rmi", name)
