"""A host, the node of the manual's script, and templates: what builds on servers are tried with.

Serves the tests of the command line. The node is an sshd on loopback, the Docker behind it this
host's; every name is the test's own, since containers are named for services.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

from aysfs.build.engine import LABEL, Docker
from aysfs.build.instances import Instance, Services
from tests import docker_host
from tests.servers import Sshd
from tests.t5_cli.conftest import MAIN, Done, Host

SECRET = "supersecret"  # the manual's password: never to be seen
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


class Farm:
    """Everything of one test."""

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
        self.services = Services(host.root / "services", ssh=ssh)
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
        """The instances that the script makes, without the price of a process."""
        self.services.new("sshkey", "build", {"key.name": KEY})
        node = self.node("master", self.sshd.port, "root")
        logins = {"read.login": "read", "write.login": "write"}
        stor = self.services.new("ays_stor.ssh", "stor1", {"root": str(self.root)} | logins, node)
        self.client("storclient", self.sshd.port, "read").consume(stor)

    def node(self, name: str, port: int, login: str) -> Instance:
        args = {"ip": "127.0.0.1", "ssh.port": port, "login": login, "password": SECRET}
        return self.services.new("node.ssh", name, args)

    def client(self, name: str, port: int, login: str) -> Instance:
        args = {"ip": "127.0.0.1", "ssh.port": port, "login": login, "cache": False}
        return self.services.new("ays_stor_client.ssh", name, args)

    def python(self, text: str, *arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-P", "-c", text, *arguments],
            cwd=self.host.root,
            env=self.host.environment,
            capture_output=True,
            check=False,
            timeout=100,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def words(self, *arguments: str) -> list[str]:
        """The command line of a build on the node, published without a check."""
        words = ["build", self.name, "--host", "node.ssh!master", "--network", "none"]
        return [*words, "--no-verify", *arguments]

    def build(self, *arguments: str) -> Done:
        return self.host.run(*self.words(*arguments))

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
        end = time.monotonic() + 100
        while words not in (line := process.stderr.readline()):
            assert line
            assert time.monotonic() < end

    def published(self) -> list[str]:
        """All that is beside lists, in the host's own store and on the node."""
        stores = (self.host.root / "store", self.root)
        return [path.name for store in stores for path in sorted(store.glob("dedupe/md/*"))]

    def containers(self) -> list[str]:
        found = self.docker.api.containers(all=True, filters={"label": LABEL})
        return [one["Id"] for one in found if one["Labels"][LABEL].endswith(self.suffix)]
