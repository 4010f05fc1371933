"""The SSH store and a real sshd: who is let in, and what happens when the other side fails."""

import contextlib
import io
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BadConfig, Missing, StoreTrouble
from aysfs.names import parse_name
from aysfs.store import ssh_link
from aysfs.store.open import open_store
from aysfs.store.protocol import BlobSource, Held
from aysfs.store.ssh import SshStore
from aysfs.store.ssh_address import SshCredentials, parse_address, without_password
from tests.servers import Sshd, make_key, port_of, silent_server

BIG = bytes(range(256)) * 40_000  # some 300 pieces: more than are under way at once
NAME = parse_name("jumpscale__base")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sshd]:
    """A server that a test may stop, pause or change."""
    server = Sshd(tmp_path / "sshd")
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it, and no agent."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path / "home"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store/dedupe").mkdir(parents=True)
    return tmp_path / "store"


def store_of(
    server: Sshd,
    root: Path,
    *,
    create: bool = False,
    connect: float = 30.0,
    idle: float = 30.0,
    credentials: SshCredentials | None = None,
) -> SshStore:
    own = credentials or SshCredentials(server.key, server.known_hosts)
    address = parse_address(server.url(root))
    return SshStore(address, create=create, credentials=own, connect=connect, idle=idle)


@contextlib.asynccontextmanager
async def closing(store: SshStore) -> AsyncIterator[SshStore]:
    try:
        yield store
    finally:
        await store.aclose()


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A file system in memory at this place."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


async def put(store: SshStore, data: bytes) -> Digest:
    digest = digests.of(data)
    await store.put(digest, len(data), io.BytesIO(data))
    return digest


async def trouble(store: SshStore) -> StoreTrouble:
    """What the first call of a store that cannot work raises."""
    async with closing(store):
        with pytest.raises(StoreTrouble) as caught:
            await store.lists()
    assert not isinstance(caught.value, Missing)
    return caught.value


# --- addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("ssh://host/srv/stor", "ssh://host/srv/stor"),
        ("sftp://me@host:2222/srv/stor/", "ssh://me@host:2222/srv/stor"),
        ("ssh://me:geheim@host/srv", "ssh://me@host/srv"),
        ("ssh://[::1]:22/a%20b", "ssh://[::1]:22/a b"),
        ("ssh://host/~/stor", "ssh://host/~/stor"),
    ],
)
def test_an_address_is_named_without_its_password(url: str, label: str) -> None:
    store = open_store(url)
    assert store.label == label
    assert "geheim" not in repr(store) + repr(parse_address(url))


@pytest.mark.parametrize(
    "url",
    ["ssh://host", "ssh://:geheim@/x", "ssh://a:geheim@host:port/x", "ssh://host/a/../b",
     "ssh://host/x?geheim", "ssh://-oProxyCommand=x/y"],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(BadConfig, match="ssh://") as caught:
        open_store(url)
    assert "geheim" not in str(caught.value) + str(caught.value.hint)


def test_any_url_can_be_shown_without_its_password() -> None:
    assert without_password("https://me:geheim@host/a@b") == "https://me@host/a@b"
    assert without_password("/a:b@c") == "/a:b@c"
    assert "geheim" not in repr(SshCredentials(password="geheim", passphrase="geheim"))


# --- who is let in -----------------------------------------------------------------------


async def test_the_persons_own_settings_are_enough(sshd: Sshd, home: Path, root: Path) -> None:
    sshd.make_home(home)
    (home / ".ssh/config").write_text(
        f"Host store\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User root\n"
    )
    async with closing(SshStore(parse_address(f"ssh://store{root}"))) as store:
        assert await store.lists() == []


async def test_a_proxy_command_is_the_way_there(sshd: Sshd, home: Path, root: Path) -> None:
    sshd.make_home(home)
    ours = f"import socket,sys,threading;s=socket.create_connection(('127.0.0.1',{sshd.port}))"
    (home / "relay.py").write_text(
        f"{ours}\nimport os\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    (home / ".ssh/config").write_text(
        f"Host store\n  HostName 127.0.0.1\n  Port {sshd.port}\n"
        f"  ProxyCommand /usr/bin/env python3 {home}/relay.py\n"
    )
    async with closing(SshStore(parse_address(f"ssh://root@store{root}"))) as store:
        assert await store.missing({await put(store, BIG): len(BIG)}) == set()


async def test_a_path_may_start_at_the_logins_home(sshd: Sshd) -> None:
    address = parse_address(f"ssh://root@127.0.0.1:{sshd.port}/~/no-such-folder-of-aysfs")
    credentials = SshCredentials(sshd.key, sshd.known_hosts)
    error = await trouble(SshStore(address, credentials=credentials))
    assert str(error).endswith("/~/no-such-folder-of-aysfs: no such directory")


async def test_an_unknown_host_key_is_refused_with_the_way_to_learn_it(
    sshd: Sshd, root: Path
) -> None:
    error = await trouble(store_of(sshd, root, credentials=SshCredentials(sshd.key)))
    assert f"host key of [127.0.0.1]:{sshd.port} is not known" in str(error)
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in (error.hint or "")


async def test_a_changed_host_key_is_refused_by_file_and_line(own: Sshd, root: Path) -> None:
    own.known_hosts.write_text("# servers\n" + own.known_hosts.read_text())
    own.new_host_key()
    own.start()
    error = await trouble(store_of(own, root))
    assert f"host key of [127.0.0.1]:{own.port} has changed" in str(error)
    assert f"{own.known_hosts}:2" in str(error)


async def test_a_login_that_is_refused(sshd: Sshd, root: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    other = SshCredentials(tmp_path / "other", sshd.known_hosts)
    error = await trouble(store_of(sshd, root, credentials=other))
    assert "the server refused the login root with key" in str(error)
    wrong = SshCredentials(known_hosts=sshd.known_hosts, password="geheim")
    error = await trouble(store_of(sshd, root, credentials=wrong))
    assert "geheim" not in f"{error!r} {error.hint}"


@pytest.mark.parametrize("which", ["key_file", "known_hosts"])
async def test_a_file_that_is_not_there(sshd: Sshd, root: Path, which: str) -> None:
    files = {"key_file": sshd.key, "known_hosts": sshd.known_hosts, which: root / "none"}
    error = await trouble(store_of(sshd, root, credentials=SshCredentials(**files)))  # type: ignore[arg-type] # any field
    assert f"{root}/none" in str(error)


# --- servers that fail -------------------------------------------------------------------


async def test_nobody_listens(own: Sshd, root: Path) -> None:
    assert "cannot be reached: Connection refused" in str(await trouble(store_of(own, root)))


async def test_a_server_that_says_nothing(own: Sshd, root: Path, no_leaks: None) -> None:
    with silent_server() as server:
        own.port = port_of(server)
        error = await trouble(store_of(own, root, connect=0.3))
    assert "no login as root" in str(error) or "no answer" in str(error)


async def test_a_server_without_sftp(tmp_path: Path, root: Path) -> None:
    server = Sshd(tmp_path / "sshd", sftp=False).start()
    try:
        error = await trouble(store_of(server, root))
    finally:
        server.stop()
    assert "no SFTP channel could be opened" in str(error)
    assert "Subsystem sftp" in (error.hint or "")


async def test_closing_does_not_wait_for_a_login_under_way(own: Sshd, root: Path) -> None:
    with silent_server() as server:
        own.port = port_of(server)
        store = store_of(own, root)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.lists)
            await trio.lowlevel.wait_readable(server)
            nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            await store.aclose()
        sock = store._link._sock
        assert sock is not None
        sock.close()


async def test_a_closed_store_logs_in_no_more(own: Sshd, root: Path) -> None:
    with silent_server() as server:
        own.port = port_of(server)
        store = store_of(own, root)
        await store.aclose()
        with pytest.raises(StoreTrouble, match="was closed"):
            await store.lists()


class _Acts:
    """A sink that does something when the first bytes arrive."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def write(self, data: bytes | memoryview, /) -> None:
        if self._act:
            act, self._act = self._act, None
            act()

    def restart(self) -> None:
        raise AssertionError


class _Source(io.BytesIO):
    """A source that does something when half of it was read."""

    def __init__(self, data: bytes, act: Callable[[], None]) -> None:
        super().__init__(data)
        self._act = act
        self._half = len(data) // 2

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._half:
            self._act()
        return super().read(size)


async def test_a_server_killed_in_the_middle_of_a_get(own: Sshd, root: Path) -> None:
    own.start()
    async with closing(store_of(own, root)) as store:
        digest = await put(store, BIG)
        with pytest.raises(StoreTrouble, match="the connection was lost"):
            await store.get(digest, len(BIG), _Acts(own.stop))
        own.start()
        sink = Held()
        await store.get(digest, len(BIG), sink)
        assert sink.getvalue() == BIG


async def test_a_server_killed_in_the_middle_of_a_put(own: Sshd, root: Path) -> None:
    own.start()
    digest = digests.of(BIG)
    async with closing(store_of(own, root)) as store:
        with pytest.raises(StoreTrouble, match="the connection was lost"):
            await store.put(digest, len(BIG), _Source(BIG, own.stop))
        own.start()
        assert await store.missing({digest: len(BIG)}) == {digest}
        await put(store, BIG)


@pytest.mark.parametrize("call", ["get", "put", "missing"])
async def test_a_server_that_stalls(own: Sshd, root: Path, call: str) -> None:
    own.start()
    async with closing(store_of(own, root)) as store:
        digest = await put(store, BIG)  # a disk may take its time
    async with closing(store_of(own, root, idle=2)) as store:
        with store._link.wire():  # logs in
            pass
        if call != "get":
            own.pause()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: store.get(digest, len(BIG), _Acts(own.pause)),
            "put": lambda: store.put_many([BlobSource.of(digests.of(BIG + b"x"), BIG + b"x")]),
            "missing": lambda: store.missing({digest: len(BIG)}),
        }
        with pytest.raises(StoreTrouble, match="no answer within 2 s"):
            await calls[call]()
        own.resume()


async def test_a_full_disk_is_the_stores_trouble_and_leaves_nothing(sshd: Sshd, root: Path) -> None:
    with mounted(root, "size=1m"):
        async with closing(store_of(sshd, root, create=True)) as store:
            with pytest.raises(StoreTrouble, match="no space left on the server's disk"):
                await put(store, BIG)
        assert [path for path in root.rglob("*") if path.is_file()] == []


async def test_a_root_that_is_missing(sshd: Sshd, root: Path) -> None:
    async with closing(store_of(sshd, root / "none")) as store:
        for call in (
            lambda: put(store, b"x"),
            lambda: store.missing({}),
            lambda: store.open_list(NAME),
            lambda: store.read_note("a"),
            lambda: store.delete_note("a"),
            store.lists,
        ):
            with pytest.raises(StoreTrouble, match="none: no such directory"):
                await call()
    async with closing(store_of(sshd, root / "none/at/all", create=True)) as store:
        for absent in (lambda: store.open_list(NAME), lambda: store.read_note("a")):
            with pytest.raises(Missing):  # to a writer it is empty: a build asks before it writes
                await absent()
        await store.put_list(NAME, [b"x"])
    assert (root / "none/at/all/dedupe/md/jumpscale__base.flist").read_bytes() == b"x"


async def test_a_root_that_cannot_be_written(sshd: Sshd, root: Path) -> None:
    with mounted(root, "ro"):
        async with closing(store_of(sshd, root)) as store:
            with pytest.raises(StoreTrouble, match="store/dedupe"):
                await put(store, b"x")


# --- what it leaves on the server --------------------------------------------------------


async def test_files_have_the_modes_of_a_directory_store(sshd: Sshd, root: Path) -> None:
    async with closing(store_of(sshd, root)) as store:
        digest = await put(store, b"data")
        await store.put_list(NAME, [b"x"])
    name = digest.hex()
    blob = root / "dedupe" / name[0] / name[1] / name
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    assert stat.S_IMODE(blob.parent.stat().st_mode) == 0o755
    assert sorted(os.listdir(root / "dedupe")) == sorted([name[0], "md"])


async def test_the_older_layout_is_read(sshd: Sshd, root: Path) -> None:
    digest = digests.of(b"old")
    name = digest.hex()
    folder = root / "dedupe/files" / name[0] / name[1]
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"old")
    async with closing(store_of(sshd, root)) as store:
        assert await store.missing({digest: 3}) == set()
        sink = Held()
        await store.get(digest, 3, sink)
    assert sink.getvalue() == b"old"


async def test_many_are_asked_for_by_listing(sshd: Sshd, root: Path) -> None:
    held = [BlobSource.of(digests.of(b"%d" % n), b"%d" % n) for n in range(3000)]
    async with closing(store_of(sshd, root)) as store:
        await store.put_many(held[::2])
        lacking = await store.missing({one.digest: one.size for one in held})
    assert lacking == {one.digest for one in held[1::2]}


async def test_strays_are_found_and_leftovers_deleted(sshd: Sshd, root: Path) -> None:
    async with closing(store_of(sshd, root)) as store:
        await put(store, b"data")
        await store.put_list(NAME, [b"x"])
        leftover = ".jumpscale__base.flist.0123456789ab0.tmp"
        for path in (leftover, "md/md.flist"):
            (root / "dedupe" / path).write_bytes(b"123")
        found = {one.path: one.size for one in await store.strays()}
        assert found == {leftover: 3, "md/md.flist": 3}
        await store.delete_strays([leftover])
        assert not (root / "dedupe" / leftover).exists()


async def test_a_blob_of_the_older_layout_is_deleted(sshd: Sshd, root: Path) -> None:
    async with closing(store_of(sshd, root)) as store:
        digest = await put(store, b"data")
        (root / "dedupe" / "files").mkdir()
        (root / "dedupe" / digest.hex()[0]).rename(root / "dedupe/files" / digest.hex()[0])
        assert [one.digest for one in await store.shelf(digest[0])] == [digest]
        await store.delete([digest])
        assert await store.shelf(digest[0]) == []


async def test_a_command_runs_with_what_it_is_sent(sshd: Sshd) -> None:
    address = parse_address(sshd.url("/"))
    link = ssh_link.Link(address, SshCredentials(sshd.key, sshd.known_hosts))
    with contextlib.closing(link):
        assert link.run("cat; echo no >&2; exit 3", b"in") == (3, b"in", b"no\n")
