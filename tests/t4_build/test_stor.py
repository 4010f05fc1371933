"""Stores on nodes, over a real sshd: prepared once, prepared again, and found by their clients."""

import fcntl
import grp
import io
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs import digest as digests
from aysfs.build.instances import Instance, Services
from aysfs.build.stor import address_of, log_in, prepare
from aysfs.errors import BadHrd, BadRecipe, ServerTrouble, StoreTrouble
from aysfs.store.open import open_store
from aysfs.store.protocol import Held
from aysfs.store.ssh_address import SshCredentials
from tests.servers import Sshd, make_key

READ, WRITE = "aysfs-test-read", "aysfs-test-write"
DATA = b"data"


def forget_accounts() -> None:
    for login in (READ, WRITE):
        subprocess.run(["userdel", "-r", login], capture_output=True, check=False)


@pytest.fixture
def accounts() -> Iterator[None]:
    """The accounts are this host's own, so sessions take turns: none before and none after."""
    with (Path(tempfile.gettempdir()) / "aysfs-test-accounts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        forget_accounts()
        yield
        forget_accounts()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="aysfs-stor-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd").start()
    yield server
    server.stop()


@pytest.fixture
def services(tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Services:
    """A person who knows the server, and no key but the node's."""
    home = tmp_path / "home"
    sshd.make_home(home)
    (home / ".ssh/id_ed25519").unlink()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    made = Services(tmp_path / "services", ssh=tmp_path / "ssh")
    made.new("sshkey", "nodekey", {"key.name": "k", "key.priv": sshd.key.read_text()})
    return made


def node(services: Services, sshd: Sshd, **more: object) -> Instance:
    args = {"ip": "127.0.0.1", "ssh.port": sshd.port, "login": "root", "sshkey": "nodekey"}
    return services.new("node.ssh", "master", args | more)


def stor(services: Services, sshd: Sshd, place: Path, **keys: str) -> Instance:
    args = {"root": str(place / "stor"), "read.login": READ, "write.login": WRITE}
    named = {f"key.{name}": value for name, value in keys.items()}
    return services.new("ays_stor.ssh", "stor1", args | named, parent=node(services, sshd))


def client(services: Services, sshd: Sshd, login: str = "root", **more: object) -> Instance:
    args = {"ip": "127.0.0.1", "ssh.port": sshd.port, "login": login, "cache": False}
    made = services.new("ays_stor_client.ssh", "storclient", args | more)
    made.consume("ays_stor!stor1")
    return made


async def test_the_writer_writes_and_the_reader_only_reads(
    services: Services, sshd: Sshd, place: Path, tmp_path: Path, accounts: None
) -> None:
    for name in ("read", "write"):
        make_key(tmp_path / name)
    public = {name: (tmp_path / f"{name}.pub").read_text() for name in ("read", "write")}
    instance = stor(services, sshd, place, **public)
    prepare(services, instance)
    prepare(services, instance)
    for login, name in ((READ, "read"), (WRITE, "write")):
        home = Path(pwd.getpwnam(login).pw_dir)
        assert (home / ".ssh/authorized_keys").read_text() == public[name]
    url = address_of(services, client(services, sshd)).url
    digest = digests.of(DATA)
    writer = open_store(
        url.replace("root@", f"{WRITE}@"), credentials=SshCredentials(tmp_path / "write")
    )
    reader = open_store(
        url.replace("root@", f"{READ}@"), credentials=SshCredentials(tmp_path / "read")
    )
    try:
        await writer.put(digest, len(DATA), io.BytesIO(DATA))
        sink = Held()
        await reader.get(digest, len(DATA), sink)
        assert sink.getvalue() == DATA
        with pytest.raises(StoreTrouble, match="permission denied"):
            await reader.write_note("a", b"x")
    finally:
        await writer.aclose()
        await reader.aclose()
    root = (place / "stor").stat()
    assert stat.S_IMODE(root.st_mode) == 0o2750
    assert READ in grp.getgrgid(root.st_gid).gr_mem


def test_another_login_than_root_only_makes_the_folders(
    services: Services, sshd: Sshd, place: Path, accounts: None
) -> None:
    subprocess.run(["useradd", "-m", WRITE], check=True)
    subprocess.run(["usermod", "-p", "*", WRITE], check=True)
    home = Path(pwd.getpwnam(WRITE).pw_dir)
    (home / ".ssh").mkdir(mode=0o700)
    shutil.copy(sshd.authorized_keys, home / ".ssh/authorized_keys")
    subprocess.run(["chown", "-R", WRITE, home / ".ssh", place], check=True)
    instance = stor(services, sshd, place)
    assert instance.parent is not None
    node(services, sshd, login=WRITE)
    prepare(services, instance)
    assert (place / "stor/dedupe/md").is_dir()
    with pytest.raises(KeyError):
        pwd.getpwnam(READ)


def test_what_the_node_says_is_told(services: Services, sshd: Sshd, place: Path) -> None:
    (place / "stor").write_text("a file")
    with pytest.raises(ServerTrouble, match=r"could not be prepared on ssh://root@.*: mkdir: "):
        prepare(services, stor(services, sshd, place))


def test_a_private_key_is_refused_where_a_public_one_belongs(
    services: Services, sshd: Sshd, place: Path
) -> None:
    secret = sshd.key.read_text()
    with pytest.raises(BadHrd, match="must be a public key") as caught:
        prepare(services, stor(services, sshd, place, read=secret))
    assert secret.splitlines()[1] not in str(caught.value)


def test_a_stor_needs_a_node(services: Services) -> None:
    with pytest.raises(BadRecipe, match="is on no node"):
        prepare(services, services.new("ays_stor.ssh", "lone", {"root": "/srv/stor"}))


def test_a_client_stands_for_the_store_that_it_consumes(
    services: Services, sshd: Sshd, place: Path
) -> None:
    instance = stor(services, sshd, place)
    found = address_of(services, client(services, sshd))
    assert found.url == f"ssh://root@127.0.0.1:{sshd.port}{place}/stor"
    assert found.credentials.key_file is not None
    assert found.credentials.key_file.read_text().strip() == sshd.key.read_text().strip()
    instance.hrd.set("root", "/srv/a b")
    instance.save()
    assert address_of(services, services.get("!storclient")).url.endswith("/srv/a%20b")


def test_a_build_writes_as_the_node_where_the_client_is_the_reader(
    services: Services, sshd: Sshd, place: Path
) -> None:
    stor(services, sshd, place)
    node(services, sshd, password="geheim")
    made = client(services, sshd, READ)
    found = address_of(services, made)
    assert found.url.startswith("ssh://root@127.0.0.1")
    assert found.credentials.password == "geheim"
    made.consume("sshkey!nodekey")  # the reader's own key is no key of the node
    assert address_of(services, made).credentials.password == "geheim"
    assert address_of(services, client(services, sshd, WRITE)).url.startswith(f"ssh://{WRITE}@")


def test_a_nodes_password_goes_to_no_other_login(
    services: Services, sshd: Sshd, place: Path
) -> None:
    stor(services, sshd, place)
    node(services, sshd, password="geheim")
    assert address_of(services, client(services, sshd)).credentials.password == "geheim"
    other = address_of(services, client(services, sshd, "someone"))
    assert other.credentials.password is None
    assert "geheim" not in repr(address_of(services, client(services, sshd)))


def test_a_node_that_names_no_key_is_tried_with_the_only_one(
    services: Services, sshd: Sshd, place: Path
) -> None:
    stor(services, sshd, place)
    made = node(services, sshd, sshkey="")
    _, found = log_in(services, made)
    assert found.key_file == services.get("sshkey!nodekey").private_key()
    assert not found.alone
    services.new("sshkey", "other", {"key.name": "o"})
    assert log_in(services, made)[1].key_file is None


def test_a_node_that_names_no_key_of_ours(services: Services, sshd: Sshd, place: Path) -> None:
    instance = stor(services, sshd, place)
    node(services, sshd, sshkey="none")
    with pytest.raises(BadRecipe, match="no sshkey instance is called that"):
        prepare(services, instance)
