"""The unit of docs/store-server.md under a real systemd, the first process of a container."""

import contextlib
import re
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aysfs.build.engine import Docker
from integration.conftest import DEBIAN, ROOT, Site, context
from tests.docker_host import run, unique

UNIT = "aysfs-store"
PATIENCE = 60.0
IMAGE = "aysfs-test/systemd:1"
# systemd wants a cgroup of its own, whichever version of them Docker uses here.
DOCKERFILE = f"""\
FROM {DEBIAN}
RUN apt-get -q update && apt-get -q -y --no-install-recommends install dbus procps python3 systemd
RUN printf '%s\\n' '#!/bin/sh' \\
    'umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup' \\
    'mkdir -p /sys/fs/cgroup/$CGROUP && echo $$ >/sys/fs/cgroup/$CGROUP/cgroup.procs' \\
    'exec unshare -C sh -c "umount /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup;' \\
    'exec env container=docker /lib/systemd/systemd --show-status=0"' >/init
RUN printf '%s\\n' '#!/bin/sh' 'export PYTHONPATH=/src:/site PYTHONDONTWRITEBYTECODE=1' \\
    'exec python3 -c "from aysfs.cli.main import main; main()" "$@"' >/usr/local/bin/aysfs
RUN chmod 755 /init /usr/local/bin/aysfs
CMD ["/init"]
"""


def blocks(text: str, language: str) -> list[str]:
    """What the fenced blocks of this language hold."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Machine:
    """A container whose first process is systemd, with port 8080 on loopback here."""

    def __init__(self, name: str) -> None:
        self.name = name
        mounts = {ROOT: "/src", Path(sysconfig.get_path("purelib")): "/site"}
        volumes = [word for here, there in mounts.items() for word in ("-v", f"{here}:{there}:ro")]
        tmpfs = [word for place in ("/run", "/run/lock", "/tmp") for word in ("--tmpfs", place)]
        rights = [
            "--cap-add",
            "SYS_ADMIN",
            "--cap-add",
            "SYS_PTRACE",
            "--security-opt",
            "seccomp=unconfined",
        ]
        options = [*rights, *tmpfs, *volumes, "-e", f"CGROUP={name}", "-p", "127.0.0.1::8080"]
        run("docker", "run", "-d", "--name", name, *options, IMAGE)
        self.address = run("docker", "port", name, "8080/tcp").split()[0]

    def run(self, *command: object, stdin: str | None = None) -> str:
        """A command in the container that must succeed; its output."""
        words = ["docker", "exec", "-i", self.name, *map(str, command)]
        done = subprocess.run(
            words, input=stdin or "", capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", 'cat >"$0"', path, stdin=text)

    def journal(self) -> str:
        command = ["docker", "exec", self.name, "journalctl", "--no-pager", "-n", "50"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "--value", "-p", name, UNIT).strip()

    def wait_until_it_runs(self) -> None:
        """Until systemd takes commands, or says what is the matter."""
        command = ["docker", "exec", self.name, "systemctl", "is-system-running"]
        end = time.monotonic() + PATIENCE
        while True:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if (state := done.stdout.strip()) == "running":
                return
            assert state != "degraded", self.run("systemctl", "--failed")
            assert time.monotonic() < end, done.stdout + done.stderr

    def wait_until_it_serves(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://{self.address}/health", timeout=5).text == "ok\n":
                    return
        raise AssertionError(self.journal())

    def remove(self) -> None:
        run("docker", "rm", "-f", self.name)
        # Its cgroup stays: Docker does not know of it.
        script = "umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup &&"
        script += f" find /sys/fs/cgroup/{self.name} -depth -type d -exec rmdir {{}} +"
        run("docker", "run", "--rm", "--cap-add", "SYS_ADMIN", IMAGE, "sh", "-c", script)


@pytest.fixture(scope="module")
def machine(docker: Docker) -> Iterator[Machine]:
    if docker.image_id(IMAGE) is None:
        docker.build_image(context(DOCKERFILE), IMAGE, lambda _: None)
    made = Machine(f"aysfs-test-systemd-{unique()}")
    try:
        made.wait_until_it_runs()
        yield made
    finally:
        made.remove()


def documented() -> tuple[str, str]:
    """What docs/store-server.md has an operator run, and the unit."""
    text = (ROOT / "docs/store-server.md").read_text()
    (commands,) = (one for one in blocks(text, "sh") if "useradd" in one)
    (unit,) = blocks(text, "ini")
    return commands, unit


def test_every_unit_of_the_documentation_is_one(machine: Machine) -> None:
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    units = [one for text in texts for one in blocks(text, "ini") if "[Unit]" in one]
    assert units
    for number, unit in enumerate(units):
        machine.write(f"/run/unit-{number}.service", unit)
        verify = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=no")
        assert machine.run(*verify, f"/run/unit-{number}.service") == ""


def test_the_documented_service_is_pushed_to_survives_a_crash_and_stops(
    machine: Machine, site: Site, tmp_path: Path
) -> None:
    commands, unit = documented()
    machine.run("sh", "-ec", commands)
    hashed = machine.run("aysfs", "store", "passwd", stdin="secret\n").strip()
    account = f'[[accounts]]\nlogin = "ci"\npassword = "{hashed}"\nread = true\nwrite = true\n'
    machine.write("/etc/aysfs/accounts.toml", account)
    machine.write(f"/etc/systemd/system/{UNIT}.service", unit)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", UNIT)
    machine.wait_until_it_serves()

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("hello\n")
    store = f"http://ci:secret@{machine.address}"
    site.aysfs("push", tmp_path / "tree", "--name", "kept", "--base", "/opt/kept", "--store", store)
    assert machine.run("find", "/srv/store", "-not", "-user", "aysfs") == ""
    first = machine.show("MainPID")
    assert machine.run("ps", "-o", "user=", "-p", first).strip() == "aysfs"
    with pytest.raises(AssertionError, match="Read-only file system"):
        machine.run("nsenter", "-t", first, "-m", "touch", "/etc/aysfs/written")

    machine.run("kill", "-KILL", first)
    machine.wait_until_it_serves()
    assert machine.show("MainPID") != first
    assert machine.show("NRestarts") == "1"
    assert site.aysfs("cat", "kept:/opt/kept/file", "--store", store) == "hello\n"
    assert "jumpscale__kept" in site.aysfs("store", "ls", "--store", store)

    machine.run("systemctl", "stop", UNIT)
    assert (machine.show("ActiveState"), machine.show("Result")) == ("inactive", "success")
    assert machine.show("ExecMainStatus") == "0"
    assert machine.run("sh", "-c", "pgrep -u aysfs || true") == ""
