"""``aysfs build``, ``verify``, ``log``, ``template``, and ``ays``, by real containers."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.build.engine import LABEL, Docker
from tests import docker_host
from tests.docker_host import GitRepository
from tests.t5_cli.conftest import MAIN, Done, Host

AYS = "from aysfs.cli.ays import main; main()"

ACTIONS = """\
from aysfs.build.actions import ActionsBase


class Actions(ActionsBase):
    def build(self, service):
        service.execute("mkdir -p /opt/hello/bin && echo 'echo hello' >/opt/hello/bin/hello")
        service.execute("chmod 755 /opt/hello/bin/hello && touch -d @1700000000 /opt/hello/bin")
        {more}
        service.upload2AYSfs("/opt/hello")
"""


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    engine = docker_host.docker()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def image(docker: Docker) -> str:
    return docker_host.base_image(docker)


class Builds:
    """A host with one template, ``acme__hello``, and what it says when it builds."""

    def __init__(self, host: Host, docker: Docker, image: str) -> None:
        self.host = host
        self.docker = docker
        self.image = image
        # A name of its own: containers are named for the service.
        self.name = f"acme__hello-{docker_host.unique()}"
        self.folder = host.root / "build" / self.name
        self.write()

    def write(self, more: str = "", hrd: str = "") -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = f"build =\n    image:'{self.image}',\n\n"
        recipe += hrd or "verify =\n    cmd:'sh /opt/hello/bin/hello',\n    expect:'hello',\n"
        (self.folder / "service.hrd").write_text(recipe)
        (self.folder / "actions_mgmt.py").write_text(ACTIONS.format(more=more))

    def build(self, *arguments: str, **environment: str) -> Done:
        return self.host.run("build", self.name, "--network", "none", *arguments, **environment)

    def ok(self, *arguments: str, **environment: str) -> str:
        done = self.build(*arguments, **environment)
        assert done.code == 0, done.err
        return done.out

    def fails(self, code: int, *arguments: str) -> str:
        """A build that fails: nothing is published, nothing is left running; its last words."""
        done = self.build(*arguments)
        assert done.code == code, done.err
        assert self.lists() == []
        assert self.containers() == []
        return done.err

    def lists(self) -> list[str]:
        return [path.name for path in (self.host.root / "store").glob("dedupe/md/*")]

    def containers(self) -> list[str]:
        found = self.docker.api.containers(all=True, filters={"label": f"{LABEL}={self.name}"})
        return [one["Id"] for one in found]


@pytest.fixture
def builds(host: Host, docker: Docker, image: str) -> Builds:
    return Builds(host, docker, image)


def test_a_build_publishes_the_image_of_its_list_also_where_nothing_changed(
    builds: Builds,
) -> None:
    builds.ok("--no-verify")
    image = builds.host.root / f"store/dedupe/md/{builds.name}.image"
    assert not image.exists()
    assert "nothing changed" in builds.ok("--no-verify", "--image")
    told = image.read_bytes()
    builds.ok("--no-verify", "--image", "--force", SOURCE_DATE_EPOCH="1600000000")
    assert image.read_bytes() != told
    builds.host.ok("store", "check", "--deep")
    builds.ok("--no-verify", "--force")
    assert json.loads(image.read_bytes()) == {"version": 1}


def test_a_build_publishes_packs_also_where_nothing_changed(builds: Builds) -> None:
    builds.ok("--no-verify", "--no-packs")
    note = builds.host.root / f"store/dedupe/md/{builds.name}.packs"
    assert not note.exists()
    done = builds.build("--no-verify")
    assert "nothing changed" in done.out
    assert " blobs (11 B) are in 1 packs (" in done.err
    told = note.read_bytes()
    assert " packs (0 B) were new" in builds.build("--no-verify", "--force").err
    assert json.loads(note.read_bytes())["index"] == json.loads(told)["index"]
    assert note.read_bytes() != told  # times are the list's, and no pack's
    builds.host.ok("store", "check", "--deep")
    builds.ok("--no-verify", "--force", "--no-packs")
    assert json.loads(note.read_bytes()) == {"version": 1}


def test_a_build_is_verified_published_recorded_and_then_skipped(builds: Builds) -> None:
    first = builds.build()
    assert first.code == 0, first.err
    assert "4 entries" in first.out or "3 entries" in first.out
    assert "verified" in first.err
    name = builds.name
    notes = [f"{name}.{kind}" for kind in ("build", "flist", "log", "packs", "profile")]
    assert sorted(builds.lists()) == notes
    assert builds.containers() == []
    again = builds.build()
    assert "nothing changed" in again.out
    assert "start a container" not in again.err
    record = json.loads((builds.host.root / "store/dedupe/md" / f"{name}.build").read_text())
    assert record["image_name"] == builds.image
    log = builds.host.ok("log", name)
    assert "aysfs: nothing changed" in log or "nothing changed since" in log
    assert builds.host.ok("cat", f"{name}:/opt/hello/bin/hello") == "echo hello\n"


def test_a_build_has_the_profile_of_what_its_check_reads(builds: Builds) -> None:
    """Each file was read by then, to compare it; what counts is what starts the service."""
    more = 'service.execute("echo unread >/opt/hello/other; echo lib >/opt/hello/lib")'
    check = "sh /opt/hello/bin/hello && cat /opt/hello/lib"
    hrd = f"verify =\n    cmd:'{check}',\n    expect:'hello',\n"
    builds.write(more=more, hrd=hrd)
    done = builds.build()
    assert "its check read 2 files first (15 B): its profile" in done.err
    shown = json.loads(builds.host.ok("profile", "show", builds.name, "--json"))
    assert [one["path"] for one in shown["reads"]] == ["/bin/hello", "/lib"]
    assert (shown["runs"], shown["unknown"]) == (1, 0)
    builds.write(more=more.replace("echo lib", "echo library"), hrd=hrd)
    builds.ok()
    shown = json.loads(builds.host.ok("profile", "show", builds.name, "--json"))
    assert [(one["path"], one["runs"]) for one in shown["reads"]] == [
        ("/bin/hello", 2),
        ("/lib", 1),
    ]
    assert (shown["runs"], shown["unknown"]) == (2, 0)


def test_a_build_that_starts_nothing_has_no_profile(builds: Builds) -> None:
    builds.ok("--no-verify")
    assert builds.host.refused(4, "profile", "show", builds.name).endswith("has no profile")
    builds.write(hrd="verify =\n    cmd:'echo hello',\n    expect:'hello',\n")
    builds.ok()
    builds.host.refused(4, "profile", "show", builds.name)


def test_a_damaged_profile_stops_no_build(builds: Builds) -> None:
    note = builds.host.root / f"store/dedupe/md/{builds.name}.profile"
    builds.ok()
    whole = note.read_bytes()
    note.write_bytes(b"nonsense")
    builds.ok("--force")
    assert note.read_bytes().splitlines()[:2] == whole.splitlines()[:2]


def test_every_change_of_an_input_builds_again(builds: Builds) -> None:
    report = json.loads(builds.ok("--json"))
    assert report[0]["new"]
    assert not json.loads(builds.ok("--json"))[0]["new"]
    assert json.loads(builds.ok("--json", "--force"))[0]["new"]
    builds.write(more='service.log("changed")')
    assert json.loads(builds.ok("--json"))[0]["new"]


def test_two_builds_of_the_same_input_give_the_same_list(builds: Builds) -> None:
    lists = []
    for _ in range(2):
        builds.ok("--force", SOURCE_DATE_EPOCH="1600000000")
        lists.append((builds.host.root / f"store/dedupe/md/{builds.name}.flist").read_bytes())
    assert lists[0] == lists[1]
    assert b"|1600000000.000000000|" in lists[0]
    assert b"|1700000000" not in lists[0]


def test_dependencies_are_built_first(builds: Builds) -> None:
    needed = f"acme__needed-{docker_host.unique()}"
    other = builds.host.root / "build" / needed
    other.mkdir()
    (other / "service.hrd").write_text(f"build = image:'{builds.image}',\n")
    (other / "actions_mgmt.py").write_text(ACTIONS.format(more=""))
    short = needed.removeprefix("acme__")
    hrd = f"dependencies.1 =\n    name:'{short}',\n    domain:'acme',\n    type:'build',\n"
    builds.write(hrd=hrd)
    report = json.loads(builds.ok("--json"))
    assert [one["service"] for one in report] == [needed, builds.name]
    assert report[1]["inputs"]["dependencies"] == {needed: report[0]["list_sha256"]}
    (other / "actions_mgmt.py").write_text(
        ACTIONS.format(more='service.execute("echo >/opt/hello/new")')
    )
    assert [one["new"] for one in json.loads(builds.ok("--json"))] == [True, True]


def test_the_default_build_publishes_what_is_exported(
    builds: Builds, repository: GitRepository
) -> None:
    repository.commit({"lib/tool.py": "print(1)\n", "doc/x": "x"})
    export = f"url:'{repository.url}',\n    source:'lib/*',\n    dest:'/opt/t/lib',\n"
    builds.write(hrd=f"git.export.1 =\n    {export}")
    (builds.folder / "actions_mgmt.py").unlink()
    builds.ok()
    assert builds.host.ok("cat", f"{builds.name}:/opt/t/lib/tool.py") == "print(1)\n"
    assert "nothing changed" in builds.ok()
    repository.commit({"lib/tool.py": "print(2)\n"})
    builds.ok()
    assert builds.host.ok("cat", f"{builds.name}:/opt/t/lib/tool.py") == "print(2)\n"


def test_a_build_is_kept_under_a_tag_also_when_nothing_changed(builds: Builds) -> None:
    builds.ok("--tag", "1.0")
    assert "nothing changed" in builds.ok("--tag", "1.1")
    assert {f"{builds.name}@1.0.flist", f"{builds.name}@1.1.flist"} <= set(builds.lists())
    done = builds.build("--tag", "no/tag", "--force")
    assert (done.code, done.out) == (2, "")


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "srv" / "acme" / "tools")


def test_a_build_fills_every_store_that_is_named(builds: Builds) -> None:
    stores = [builds.host.root / "one", builds.host.root / "two"]
    for store in stores:
        store.mkdir()
    builds.ok(*(word for store in stores for word in ("--store", str(store))))
    one, two = (
        {p.relative_to(s): p.read_bytes() for p in s.rglob("*") if p.is_file()} for s in stores
    )
    assert one == two
    assert len(one) > 3


def test_the_command_line_of_the_manual(builds: Builds) -> None:
    domain, _, name = builds.name.partition("__")
    done = subprocess.run(
        [sys.executable, "-P", "-c", AYS, "build", "-n", name, "-d", domain],
        cwd=builds.host.root,
        env=builds.host.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert builds.name in done.stdout


def test_a_script_of_the_manual(builds: Builds) -> None:
    script = f"""
from aysfs import j
key = j.atyourservice.new(name='sshkey', instance='build', args={{'key.name': 'ovh_install'}})
data = {{'ssh.port': 22, 'login': 'root', 'password': 'supersecret', 'ip': '127.0.0.1'}}
host = j.atyourservice.new(name='node.ssh', instance='master', args=data)
data = {{'read.login': 'read', 'write.login': 'write', 'root': '/mnt/data/stor'}}
stor = j.atyourservice.new(name='ays_stor.ssh', instance='stor1', parent=host, args=data)
print(key, host, stor)
print(j.atyourservice.getTemplate(name='{builds.name}').build().record.service)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=builds.host.root,
        env=builds.host.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == builds.name
    assert "supersecret" not in done.stdout + done.stderr
    shown = builds.host.ok("service", "show", "node.ssh!master")
    assert "password = ****" in shown


# --- what goes wrong -----------------------------------------------------------------------


def test_an_unknown_template_is_named_with_its_neighbours(builds: Builds) -> None:
    line = builds.host.refused(4, "build", builds.name[:-1])
    assert "no template" in line
    assert builds.name in line


def test_several_templates_of_one_name_are_refused(builds: Builds) -> None:
    domain, _, name = builds.name.partition("__")
    twin = builds.host.root / "build" / domain / name
    twin.mkdir(parents=True)
    (twin / "service.hrd").write_text("build = image:'x',\n")
    assert "multiple templates" in builds.host.refused(2, "build", builds.name)


def test_a_name_that_is_none_is_refused(builds: Builds) -> None:
    builds.host.refused(2, "build", "No Such Name")


def test_a_command_that_fails_ends_the_build_with_what_it_said(builds: Builds) -> None:
    builds.write(more='service.execute("echo the reason; exit 9")')
    said = builds.fails(13)
    assert "the reason" in said
    assert "ended with 9" in said.splitlines()[-1]
    assert "the reason" in builds.host.ok("log", builds.name)


def test_a_build_that_raises_says_where(builds: Builds) -> None:
    builds.write(more="1 / 0")
    done = builds.build()
    assert done.code == 13
    assert "ZeroDivisionError" in done.err.splitlines()[-1]
    assert "actions_mgmt.py" in done.err


def test_a_build_that_uploads_nothing_is_refused(builds: Builds) -> None:
    builds.write(more="return")
    assert "upload" in builds.fails(13)


def test_what_is_not_there_cannot_be_uploaded(builds: Builds) -> None:
    builds.write(more='service.upload2AYSfs("/opt/nowhere")')
    assert "there is no /opt/nowhere" in builds.fails(13)


def test_a_failing_check_publishes_nothing(builds: Builds) -> None:
    builds.write(hrd="verify =\n    cmd:'sh /opt/hello/bin/hello',\n    expect:'goodbye',\n")
    assert "did not say `goodbye`" in builds.fails(14)
    builds.ok("--no-verify")


def test_debug_keeps_the_container_and_says_how_to_enter(builds: Builds) -> None:
    builds.write(more='service.execute("exit 1")')
    done = builds.build("--debug")
    hint = done.err.splitlines()[-1]
    assert hint == f"  look into it: docker exec -it aysfs-build-{builds.name} sh"
    assert len(builds.containers()) == 1
    builds.write()
    builds.ok()  # takes the place of the one that was kept
    assert builds.containers() == []


def test_a_container_killed_from_outside_ends_the_build(builds: Builds) -> None:
    builds.write(more='service.execute("sleep 50")')
    build = start(builds)
    wait_until_it_sleeps(builds, build)
    builds.docker.api.kill(builds.containers()[0])
    _, err = build.communicate(timeout=100)
    assert build.returncode == 15, err
    assert b"stopped from outside" in err
    assert builds.lists() == []
    assert builds.containers() == []


def test_interrupted_by_a_person_nothing_is_left(builds: Builds) -> None:
    builds.write(more='service.execute("sleep 50")')
    build = start(builds)
    wait_until_it_sleeps(builds, build)
    build.send_signal(signal.SIGINT)
    _, err = build.communicate(timeout=100)
    assert build.returncode == 130, err
    assert b"interrupted" in err
    assert builds.lists() == []
    assert builds.containers() == []


def start(builds: Builds) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, "build", builds.name, "--network", "none"],
        cwd=builds.host.root,
        env=builds.host.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until_it_sleeps(builds: Builds, build: "subprocess.Popen[bytes]") -> None:
    """Read what the build says until it runs the command that takes long."""
    assert build.stderr is not None
    end = time.monotonic() + 100
    while b"execute sleep 50" not in build.stderr.readline():
        assert build.poll() is None
        assert time.monotonic() < end


def test_a_store_that_gets_full_publishes_nothing(builds: Builds) -> None:
    small = builds.host.root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=True)
    try:
        builds.write(more='service.execute("head -c 1M /dev/urandom >/opt/hello/large")')
        done = builds.build("--store", str(small))
        assert done.code == 5, done.err
        assert "No space left" in done.err.splitlines()[-1]
        assert list(small.glob("dedupe/md/*")) == []
        assert builds.containers() == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_dockerfile_that_fails_ends_the_build(builds: Builds, repository: GitRepository) -> None:
    repository.commit({"Dockerfile": f"FROM {builds.image}\nRUN echo told >&2; exit 5\n"})
    image = f"aysfs-test/broken-{docker_host.unique()}:1"
    recipe = f"build =\n    image:'{image}',\n    repo:'{repository.url}',\n"
    (builds.folder / "service.hrd").write_text(recipe)
    assert "returned a non-zero code: 5" in builds.fails(13, "--build")


def test_an_image_is_built_from_its_repository(builds: Builds, repository: GitRepository) -> None:
    repository.commit({"Dockerfile": f"FROM {builds.image}\nRUN echo made >/made\n"})
    image = f"aysfs-test/made-{docker_host.unique()}:1"
    recipe = f"build =\n    image:'{image}',\n    repo:'{repository.url}',\n"
    (builds.folder / "service.hrd").write_text(recipe)
    (builds.folder / "actions_mgmt.py").write_text(
        ACTIONS.format(more='service.execute("cat /made >/opt/hello/made")')
    )
    try:
        builds.ok("--build")
        assert builds.host.ok("cat", f"{builds.name}:/opt/hello/made") == "made\n"
    finally:
        builds.docker.api.remove_image(image, force=True)


def test_a_recipe_without_an_image_is_refused(builds: Builds) -> None:
    (builds.folder / "service.hrd").write_text("description = 'nothing'\n")
    assert "has no `build = image:`" in builds.fails(12)


def test_a_host_that_is_no_instance_is_refused(builds: Builds) -> None:
    assert "no service instance" in builds.fails(4, "--host", "node.ssh!nowhere")


# --- verify, template ----------------------------------------------------------------------


def test_a_published_service_is_verified_again_and_found_out(builds: Builds) -> None:
    builds.ok()
    out = builds.host.ok("verify", builds.name)
    assert "are as listed" in out
    for blob in builds.host.cached() + builds.host.blobs():
        data = bytearray(blob.read_bytes())
        blob.chmod(0o644)
        data[-1] ^= 1
        blob.write_bytes(data)
    done = builds.host.run("verify", builds.name)
    assert done.code == 14, done.err
    assert "/opt/hello/bin/hello: cannot be read" in done.err


def test_what_was_never_published_cannot_be_verified(builds: Builds) -> None:
    builds.host.refused(5, "verify", builds.name)
    builds.ok()
    builds.host.refused(12, "verify", "acme__other")


def test_templates_are_listed_shown_and_checked(builds: Builds) -> None:
    found = builds.host.ok("template", "list")
    assert builds.name in found
    assert "jumpscale__redis" in found
    assert builds.image in builds.host.ok("template", "show", builds.name)
    assert "good" in builds.host.ok("template", "check")
    (builds.folder / "service.hrd").write_text("git.export.1 =\n    url:'x',\n    source:'a',\n")
    done = builds.host.run("template", "check", builds.name)
    assert done.code == 12
    assert "dest is missing" in done.out
    (builds.folder / "service.hrd").write_text(
        "build = image:x\ndependencies.1 = name:absent, type:build\n"
    )
    done = builds.host.run("template", "check", builds.name)
    assert done.code == 12
    assert "it needs `absent`" in done.out


def test_actions_that_do_not_load_need_no_container(builds: Builds) -> None:
    (builds.folder / "actions_mgmt.py").write_text("class Actions(:\n")
    said = builds.fails(12)
    assert "actions_mgmt.py:1: does not compile" in said
    assert "start a container" not in said
