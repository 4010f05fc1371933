"""Builds through a build server and into SSH stores, by the real command, as the manual says.

One sshd on loopback stands for every node; the Docker behind it is this host's.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.build.container import LABEL, Docker
from tests import docker_host
from tests.docker_host import GitRepository
from tests.servers import Sshd, free_port, make_key
from tests.t5_cli.conftest import MAIN, Done, Host

AYS = "from aysfs.cli.ays import main; main()"
SECRET = "supersecret"  # the manual's; never needed here, and never to be seen
KEY = "ovh_install"

ACTIONS = """\
class Actions(ActionsBase):
    def build(self, service):
        service.execute("mkdir -p /opt/hello && echo hello >/opt/hello/greeting")
        {more}
        service.upload2AYSfs("/opt/hello")
"""

# The script of the manual, with the addresses, the root, and the service of a test.
SCRIPT = """\
from aysfs import j

data = {{
 'key.name': 'ovh_install',
}}
key = j.atyourservice.new(name='sshkey', instance='build', args=data)

buildhostip = "127.0.0.1"
data = {{
    'jumpscale.branch': 'ays_unstable',
    'jumpscale.install': False,
    'jumpscale.reset': False,
    'jumpscale.update': False,
    'ssh.port': {port},
    'login': 'root',
    'password': 'supersecret',
    'ip': buildhostip
}}
buildhost = j.atyourservice.new(name='node.ssh',instance="master",args=data)

# #INIT THE CACHES & STOR's
data = {{
    'read.login': 'read',
    'write.login': 'write',
    'root': "{root}"
}}
ays_stor1 = j.atyourservice.new(name='ays_stor.ssh',instance="stor1",parent=buildhost,args=data)

data = {{
    'login': 'read',
    'cache': False,
    'ip': buildhostip,
    'ssh.port': {port},
}}
storclient1 = j.atyourservice.new(name='ays_stor_client.ssh',instance="storclient",args=data)
storclient1.consume(ays_stor1)
"""
BUILD = """
redis = j.atyourservice.getTemplate(name='{name}')
redis.build(build_server='node.ssh!master', image_build=False, image_push=False, debug=False)
"""


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    engine = docker_host.docker()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def image(docker: Docker) -> Iterator[str]:
    """An image of sh and the coreutils: small enough to be sent about."""
    name = f"aysfs-test/small-{docker_host.unique()}:1"
    docker_host.shell_image(name)
    yield name
    docker_host.run("docker", "rmi", "-f", name)


class Farm:
    """A host, the node that it knows by the manual's script, and templates of its own."""

    def __init__(self, host: Host, sshd: Sshd, docker: Docker, image: str) -> None:
        self.host = host
        self.sshd = sshd
        self.docker = docker
        self.image = image
        self.root = host.root / "stor"
        self.suffix = docker_host.unique()
        self.name = self.template("hello")
        ssh = host.root / ".ssh"
        ssh.mkdir(mode=0o700)
        self.known_hosts = ssh / "known_hosts"
        self.known_hosts.write_text(sshd.host_line())
        self.key = ssh / KEY
        self.key.write_bytes(sshd.key.read_bytes())
        self.key.chmod(0o600)
        host.environment.pop("SSH_AUTH_SOCK", None)

    def template(self, name: str, more: str = "", hrd: str = "", image: str = "") -> str:
        """A template; its whole name, which no other test of this host has."""
        full = f"acme__{name}-{self.suffix}"
        folder = self.host.root / "build" / full
        folder.mkdir(parents=True, exist_ok=True)
        recipe = f"build =\n    image:'{image or self.image}',\n{hrd}"
        (folder / "service.hrd").write_text(recipe)
        (folder / "actions_mgmt.py").write_text(ACTIONS.format(more=more))
        return full

    def script(self, more: str = "") -> Done:
        """Run the manual's script, and more after it."""
        text = SCRIPT.format(port=self.sshd.port, root=self.root) + more
        return self.python(text)

    def set_up(self) -> None:
        done = self.script()
        assert (done.code, done.raw, done.err) == (0, b"", "")

    def python(self, text: str, *arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-P", "-c", text, *arguments],
            cwd=self.host.root,
            env=self.host.environment,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def build(self, *arguments: str) -> Done:
        words = [self.name, "--host", "node.ssh!master", "--network", "none", *arguments]
        return self.host.run("build", *words)

    def fails(self, code: int, *arguments: str) -> list[str]:
        """A build that fails: nothing is published anywhere, nothing runs on; its last words."""
        done = self.build(*arguments)
        assert done.code == code, done.err
        assert self.published() == []
        assert self.containers() == []
        assert "Traceback" not in done.err
        lines = [line for line in done.err.splitlines() if line.strip()]
        at = max(at for at, line in enumerate(lines) if line.startswith("aysfs: "))
        return lines[at:]

    @contextlib.contextmanager
    def started(self, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
        """A command that runs beside the test, and not longer than it."""
        with subprocess.Popen(
            [sys.executable, "-P", "-c", MAIN, *arguments],
            cwd=self.host.root,
            env=self.host.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def wait_until_it_says(self, process: "subprocess.Popen[bytes]", words: bytes) -> None:
        assert process.stderr is not None
        end = time.monotonic() + 30
        while words not in (line := process.stderr.readline()):
            assert line
            assert time.monotonic() < end

    def published(self) -> list[str]:
        """All that is beside lists, in the host's own store and on the node."""
        stores = (self.host.root / "store", self.root)
        return [path.name for store in stores for path in sorted(store.glob("dedupe/md/*"))]

    def containers(self) -> list[str]:
        found = self.docker._api.containers(all=True, filters={"label": LABEL})
        return [one["Id"] for one in found if one["Labels"][LABEL].endswith(self.suffix)]


@pytest.fixture
def farm(host: Host, docker: Docker, image: str) -> Iterator[Farm]:
    server = Sshd(host.root / "sshd").start()
    made = Farm(host, server, docker, image)
    yield made
    server.stop()
    for one in made.containers():
        docker._api.remove_container(one, force=True)


def files(store: Path) -> dict[str, bytes]:
    found = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in found}


# --- what the manual shows -----------------------------------------------------------------


def test_the_script_of_the_manual_builds_on_its_server_and_fills_its_store(farm: Farm) -> None:
    done = farm.script(BUILD.format(name=farm.name))
    assert done.code == 0, done.err
    assert SECRET not in done.err
    far, here = files(farm.root), files(farm.host.root / "store")
    assert far == here
    record = json.loads(far[f"dedupe/md/{farm.name}.build"])
    assert "node.ssh!master" in record["server"]
    assert b"hello\n" in far.values()
    point = farm.host.root / "mnt"
    point.mkdir()
    (farm.host.root / ".ssh/id_ed25519").write_bytes(farm.key.read_bytes())
    (farm.host.root / ".ssh/id_ed25519").chmod(0o600)
    farm.host.ok("mount", farm.name, point, "--store", farm.sshd.url(farm.root))
    try:
        assert (point / "greeting").read_text() == "hello\n"
    finally:
        farm.host.ok("umount", point)
    again = farm.script(BUILD.format(name=farm.name))
    assert again.code == 0
    assert "nothing changed" in again.err


def test_independent_services_are_built_side_by_side_on_several_servers(farm: Farm) -> None:
    farm.set_up()
    values = ["ip=127.0.0.1", f"ssh.port={farm.sshd.port}", "login=root", "sshkey=build"]
    farm.host.ok("service", "new", "node.ssh", "second", *values)
    needed = farm.template("needed")
    short = needed.removeprefix("acme__")
    hrd = f"dependencies.1 =\n    name:'{short}',\n    domain:'acme',\n    type:'build',\n"
    # Each of the two says that it is there, and waits for the other one to do so.
    meeting = farm.host.root / "meeting"
    meeting.mkdir()
    wait = (
        "import pathlib, time; place = pathlib.Path({place!r}); (place / {own!r}).touch();"
        " end = time.monotonic() + 20\n"
        "        while not (place / {other!r}).exists():\n"
        "            time.sleep(0.01)\n"
        "            assert time.monotonic() < end"
    )
    names = [
        farm.template(own, wait.format(place=str(meeting), own=own, other=other), hrd)
        for own, other in (("one", "two"), ("two", "one"))
    ]
    hosts = ["--host", "node.ssh!master", "--host", "node.ssh!second"]
    done = farm.host.run("build", *names, *hosts, "--network", "none", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert [one["service"] for one in report] == [needed, *names]
    assert len({one["server"] for one in report[1:]}) == 2
    assert all(one["started"] >= report[0]["started"] + report[0]["seconds"] for one in report[1:])
    assert all(one["inputs"]["dependencies"].keys() == {needed} for one in report[1:])
    assert len(farm.published()) == 18


def test_an_image_is_built_pushed_and_pulled_again(farm: Farm, tmp_path: Path) -> None:
    farm.set_up()
    repository = GitRepository(tmp_path / "srv" / "image")
    repository.commit({"Dockerfile": f"FROM {farm.image}\nCOPY word /word\n", "word": "made"})
    with docker_host.registry(tmp_path / "registry") as address:
        image = f"{address}/made-{farm.suffix}:1"
        farm.name = farm.template(
            "pushed",
            'service.execute("cat /word >/opt/hello/word")',
            f"    repo:'{repository.url}',\n",
            image,
        )
        domain, _, name = farm.name.partition("__")
        words = ["-n", name, "-d", domain, "--host", "node.ssh!master"]
        try:
            done = farm.python(AYS, "build", *words, "--build", "--push", "--debug")
            assert done.code == 0, done.err
            assert len(farm.containers()) == 1  # --debug
            farm.docker._api.remove_container(farm.containers()[0], force=True)
            made = farm.docker.image_id(image)
            assert made is not None
            docker_host.run("docker", "rmi", "-f", image)
            assert farm.docker.image_id(image) is None
            assert farm.docker.pull(image, lambda _: None) == made
        finally:
            farm.docker._api.remove_image(image, force=True)
    assert farm.host.ok("cat", f"{farm.name}:/opt/hello/word") == "made"


def test_a_store_is_prepared_on_its_node(farm: Farm) -> None:
    farm.set_up()
    # This host's accounts are not the test's: the store belongs to those that are there.
    services = farm.host.root / "services"
    (stor,) = services.rglob("ays_stor!stor1/instance.hrd")
    text = stor.read_text().replace("'read'", "'root'").replace("'write'", "'root'")
    stor.write_text(text.replace("= read", "= root").replace("= write", "= root"))
    for _ in range(2):
        assert "prepared" in farm.host.ok("service", "prepare", "ays_stor.ssh!stor1")
    assert (farm.root / "dedupe" / "md").is_dir()
    assert farm.root.stat().st_mode & 0o7777 == 0o2750


# --- what goes wrong -----------------------------------------------------------------------


def test_a_server_that_is_not_known_builds_nothing(farm: Farm) -> None:
    farm.set_up()
    farm.known_hosts.write_text("")
    line, hint = farm.fails(15)
    assert "the host key of build server" in line
    assert line.endswith("is not known")
    assert "ssh-keyscan" in hint


def test_a_server_with_another_key_builds_nothing(farm: Farm) -> None:
    farm.set_up()
    farm.sshd.stop()
    farm.sshd.new_host_key()
    farm.sshd.start()
    line, hint = farm.fails(15)
    assert line.endswith("has changed")
    assert "ssh-keygen -R" in hint


def test_a_key_that_the_server_does_not_take_is_named(farm: Farm) -> None:
    farm.set_up()
    farm.key.unlink()
    make_key(farm.key)
    (line,) = farm.fails(15)
    assert "does not let root in by key" in line
    assert KEY in line
    assert SECRET not in line


def test_a_closed_port_is_named(farm: Farm) -> None:
    farm.set_up()
    farm.sshd.stop()
    (line,) = farm.fails(15)
    assert line.endswith(f"port {farm.sshd.port} of 127.0.0.1 is closed")


def test_a_server_that_goes_away_under_a_build_is_told_in_one_line(farm: Farm) -> None:
    farm.set_up()
    farm.template("hello", 'service.execute("sleep 50")')
    words = ["build", farm.name, "--host", "node.ssh!master", "--network", "none"]
    with farm.started(*words) as build:
        farm.wait_until_it_says(build, b"execute sleep 50")
        farm.sshd.stop()
        out, err = build.communicate(timeout=55)
    last = err.decode().splitlines()[-1]
    assert build.returncode == 15, err
    assert last.startswith("aysfs: build server jumpscale|node.ssh!master is gone: ")

    assert b"Traceback" not in err
    assert out == b""
    assert farm.published() == []
    left = err.decode().splitlines()[-2]
    assert left.endswith(
        f"container aysfs-build-{farm.name}: cannot be removed: Connection refused"
    )
    assert len(farm.containers()) == 1
    farm.template("hello")
    farm.sshd.start()
    assert farm.build("--no-verify").code == 0  # which takes the place of what was left
    assert farm.containers() == []


def test_a_store_that_does_not_answer_leaves_all_stores_without_the_list(farm: Farm) -> None:
    farm.set_up()
    port = free_port()
    values = ["ip=127.0.0.1", f"ssh.port={port}", "login=root", f"root={farm.root}"]
    farm.host.ok("service", "new", "ays_stor_client.ssh", "down", *values)
    farm.template("hello", "service.execute('cd /opt/hello && rm greeting')")
    for force in ([], ["--force"]):  # without a word to the stores before, and without a blob
        (line,) = farm.fails(5, "--no-verify", *force)
        assert f"ssh://root@127.0.0.1:{port}" in line


@pytest.fixture
def account() -> Iterator[str]:
    """An account of this host that logs in by the password and may use Docker."""
    name = "aysfs-test-build"
    subprocess.run(["userdel", "-r", name], capture_output=True, check=False)
    docker_host.run("useradd", "-m", "-G", "docker", "-s", "/bin/sh", name)
    subprocess.run(["chpasswd"], input=f"{name}:{SECRET}", text=True, check=True)
    yield name
    subprocess.run(["userdel", "-r", name], capture_output=True, check=False)


def test_a_password_opens_the_server_and_is_seen_nowhere(farm: Farm, account: str) -> None:
    farm.set_up()
    farm.template("hello", 'service.execute("sleep 1; false")')
    by_word = f"Match User {account}\n  PasswordAuthentication yes\n"
    with Sshd(farm.host.root / "word", sftp=False, more=by_word) as server:
        farm.known_hosts.write_text(farm.sshd.host_line() + server.host_line())
        args = {"ip": "127.0.0.1", "ssh.port": server.port, "login": account, "password": SECRET}
        made = farm.python(f"from aysfs import j; j.atyourservice.new('node.ssh', 'word', {args})")
        assert made.code == 0
        seen = b""
        words = ["build", farm.name, "--host", "node.ssh!word", "--network", "none"]
        with farm.started(*words) as build:
            farm.wait_until_it_says(build, b"execute sleep 1")
            while build.poll() is None:
                seen += command_lines()
            out, err = build.communicate(timeout=30)
    assert f"-l\0{account}\0".encode() in seen  # ssh was among them
    assert build.returncode == 13, err
    shown = "".join(farm.host.ok("service", "show", "node.ssh!word", *more) for more in
                    ((), ("--json",)))  # fmt: skip
    logs = b"".join(path.read_bytes() for path in (farm.host.root / "builds").rglob("*.log"))
    refused = "".join(farm.fails(15, "--host", "node.ssh!word"))
    assert SECRET.encode() not in seen + out + err + logs + (shown + refused).encode()
    (kept,) = (farm.host.root / "services").rglob("node!word/instance.hrd")
    assert SECRET in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def command_lines() -> bytes:
    """Those of every process of this host."""
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes()
    return found


# --- verify --------------------------------------------------------------------------------


def test_an_image_that_is_only_on_the_build_server_is_brought_to_verify(farm: Farm) -> None:
    farm.set_up()
    with docker_host.second_docker() as address:  # the caller's own; the server has the first
        farm.host.environment["DOCKER_HOST"] = address
        done = farm.build()
        assert done.code == 0, done.err
        assert "bringing image" in done.err
        identity = farm.docker.image_id(farm.image) or ""
        docker_host.run("docker", "-H", address, "rmi", "-f", identity)
        done = farm.host.run("verify", farm.name, "--host", "node.ssh!master")
        assert done.code == 0, done.err
        assert "are as listed" in done.out
        assert "bringing image" in done.err
