"""Builds through a build server and into SSH stores, by the real command, as the manual says.

One sshd on loopback stands for every node; the Docker behind it is this host's.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.build.container import Container
from aysfs.build.engine import Docker
from tests import docker_host
from tests.docker_host import GitRepository
from tests.servers import Sshd, free_port, make_key
from tests.t5_cli.conftest import Host, command_lines
from tests.t5_cli.farm import BUILD, KEY, SECRET, Farm

AYS = "from aysfs.cli.ays import main; main()"


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


@pytest.fixture
def farm(host: Host, docker: Docker, image: str) -> Iterator[Farm]:
    server = Sshd(host.root / "sshd").start()
    made = Farm(host, server, docker, image)
    yield made
    server.stop()
    for one in made.containers():
        docker.api.remove_container(one, force=True)


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
    farm.node("second", farm.sshd.port, "root")
    needed = farm.template("needed")
    short = needed.removeprefix("acme__")
    hrd = f"dependencies.1 =\n    name:'{short}',\n    domain:'acme',\n    type:'build',\n"
    # Each of the two says that it is there, and waits for the other one to do so.
    meeting = farm.host.root / "meeting"
    meeting.mkdir()
    wait = (
        "import pathlib, time; place = pathlib.Path({place!r}); (place / {own!r}).touch();"
        " end = time.monotonic() + 50\n"
        "        while not (place / {other!r}).exists():\n"
        "            time.sleep(0.01)\n"
        "            assert time.monotonic() < end"
    )
    names = [
        farm.template(own, wait.format(place=str(meeting), own=own, other=other), hrd)
        for own, other in (("one", "two"), ("two", "one"))
    ]
    hosts = ["--host", "node.ssh!master", "--host", "node.ssh!second"]
    done = farm.host.run("build", *names, *hosts, "--network", "none", "--no-verify", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert [one["service"] for one in report] == [needed, *names]
    assert len({one["server"] for one in report[1:]}) == 2
    assert all(one["started"] >= report[0]["started"] + report[0]["seconds"] for one in report[1:])
    assert all(one["inputs"]["dependencies"].keys() == {needed} for one in report[1:])
    assert len(farm.published()) == 24


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
            farm.docker.api.remove_container(farm.containers()[0], force=True)
            made = farm.docker.image_id(image)
            assert made is not None
            docker_host.run("docker", "rmi", "-f", image)
            assert farm.docker.image_id(image) is None
            assert farm.docker.pull(image, lambda _: None) == made
        finally:
            farm.docker.api.remove_image(image, force=True)
    assert farm.host.ok("cat", f"{farm.name}:/opt/hello/word") == "made"


def test_a_kept_container_is_entered_on_its_server(farm: Farm) -> None:
    farm.set_up()
    farm.template("hello", 'service.execute("false")')
    done = farm.build("--debug")
    assert done.code == 13
    hint = done.err.splitlines()[-1]
    reach = f"ssh -t -p {farm.sshd.port} root@127.0.0.1"
    assert hint == f"  look into it: {reach} docker exec -it aysfs-build-{farm.name} sh"
    assert len(farm.containers()) == 1


def test_a_store_is_prepared_on_its_node(farm: Farm) -> None:
    farm.set_up()
    # No accounts are made on the host of the tests: the store is of one that is there.
    logins = ["read.login=root", "write.login=root", "--parent", "node.ssh!master"]
    farm.host.ok("service", "new", "ays_stor.ssh", "stor1", *logins)
    farm.client("storclient", farm.sshd.port, "root")
    said = farm.host.ok("service", "prepare", "ays_stor.ssh!stor1")
    assert said == "jumpscale|ays_stor.ssh!stor1: prepared\n"
    assert (farm.root / "dedupe" / "md").is_dir()
    assert farm.root.stat().st_mode & 0o7777 == 0o2750
    assert farm.build().code == 0
    assert f"{farm.name}.flist" in farm.published()


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
    with farm.started(*farm.words()) as build:
        farm.wait_until_it_says(build, b"execute sleep 50")
        farm.sshd.stop()
        out, err = build.communicate(timeout=100)
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
    assert farm.build().code == 0  # which takes the place of what was left
    assert farm.containers() == []


def test_interrupted_by_a_person_nothing_is_left_on_the_server(farm: Farm) -> None:
    farm.set_up()
    farm.template("hello", 'service.execute("sleep 50")')
    with farm.started(*farm.words()) as build:
        farm.wait_until_it_says(build, b"execute sleep 50")
        build.send_signal(signal.SIGINT)
        _, err = build.communicate(timeout=100)
    assert build.returncode == 130
    assert err.decode().splitlines()[-1] == "aysfs: interrupted"
    assert farm.published() == []
    assert farm.containers() == []


def test_a_store_that_does_not_answer_leaves_all_stores_without_the_list(farm: Farm) -> None:
    farm.set_up()
    port = free_port()
    farm.client("down", port, "root")
    farm.template("hello", "service.execute('cd /opt/hello && rm greeting')")
    (line,) = farm.fails(5, "--force")  # no store is asked before the list: there is no blob
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
    waits = "until [ -e /go ]; do sleep 0.1; done; false"
    farm.template("hello", f'service.execute("{waits}")')
    by_word = f"Match User {account}\n  PasswordAuthentication yes\n"
    with Sshd(farm.host.root / "word", sftp=False, more=by_word) as server:
        farm.known_hosts.write_text(farm.sshd.host_line() + server.host_line())
        kept = farm.node("word", server.port, account).folder / "instance.hrd"
        words = ["build", farm.name, "--host", "node.ssh!word", "--network", "none"]
        with farm.started(*words) as build:
            farm.wait_until_it_says(build, b"execute until")
            seen = command_lines()
            (identity,) = farm.containers()
            Container(farm.docker, identity, "test").run("touch /go", lambda _: None)
            while build.poll() is None:
                seen += command_lines()
            out, err = build.communicate(timeout=100)
    assert f"-l\0{account}\0".encode() in seen  # ssh was among them
    assert build.returncode == 13, err
    shown = "".join(farm.host.ok("service", "show", "node.ssh!word", *more) for more in
                    ((), ("--json",)))  # fmt: skip
    logs = b"".join(path.read_bytes() for path in (farm.host.root / "builds").rglob("*.log"))
    refused = "".join(farm.fails(15, "--host", "node.ssh!word"))
    assert SECRET.encode() not in seen + out + err + logs + (shown + refused).encode()
    assert SECRET in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


# --- verify --------------------------------------------------------------------------------


def test_an_image_that_is_only_on_the_build_server_is_brought_to_verify(farm: Farm) -> None:
    farm.set_up()
    with docker_host.second_docker() as address:  # the caller's own; the server has the first
        farm.host.environment["DOCKER_HOST"] = address
        assert farm.build().code == 0
        done = farm.host.run("verify", farm.name, "--host", "node.ssh!master")
        assert done.code == 0, done.err
        assert "are as listed" in done.out
        assert "bringing image" in done.err
