"""Builds that are interrupted, that meet each other, or whose records are not the truth."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.build.container import Container
from aysfs.build.engine import Docker
from tests import docker_host
from tests.conftest import aysfs_mounts
from tests.docker_host import GitRepository
from tests.t5_cli.conftest import MAIN, Host
from tests.t5_cli.test_building import Builds

WAITS = 'service.execute("until [ -e /go ]; do sleep 0.1; done")'
Process = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    engine = docker_host.docker()
    yield engine
    engine.close()


@pytest.fixture
def builds(host: Host, docker: Docker) -> Builds:
    (host.root / "tmp").mkdir()
    host.environment["TMPDIR"] = str(host.root / "tmp")
    return Builds(host, docker, docker_host.base_image(docker))


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "srv" / "acme" / "tools")


def start(builds: Builds, *more: str) -> Process:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, "build", builds.name, "--network", "none", *more],
        cwd=builds.host.root,
        env=builds.host.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(build: Process, words: str) -> None:
    """Read what a build says until it has said these words."""
    assert build.stderr is not None
    end = time.monotonic() + 100
    while words.encode() not in build.stderr.readline():
        assert build.poll() is None
        assert time.monotonic() < end


def go(builds: Builds) -> None:
    """Let a build that waits for it go on."""
    [identity] = builds.containers()
    Container(builds.docker, identity, "test").run("touch /go", lambda _: None)


# --- interrupted ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_in_its_verification_a_build_leaves_nothing(
    builds: Builds, number: signal.Signals
) -> None:
    builds.write(hrd="verify =\n    cmd:'sleep 50',\n")
    build = start(builds)
    wait_until(build, "check: sleep 50")
    assert len(builds.containers()) == 2
    assert len(aysfs_mounts(builds.host.root)) == 1
    build.send_signal(number)
    _, err = build.communicate(timeout=100)
    assert build.returncode == 130, err
    assert builds.lists() == []
    assert builds.containers() == []
    assert aysfs_mounts(builds.host.root) == []
    assert os.listdir(builds.host.root / "tmp") == []


def test_interrupted_twice_a_build_still_leaves_nothing(builds: Builds) -> None:
    builds.write(hrd="verify =\n    cmd:'sleep 50',\n")
    build = start(builds)
    wait_until(build, "check: sleep 50")
    build.send_signal(signal.SIGINT)
    build.send_signal(signal.SIGINT)
    _, err = build.communicate(timeout=100)
    assert build.returncode == 130, err
    assert builds.containers() == []
    assert aysfs_mounts(builds.host.root) == []


def test_interrupted_in_its_upload_a_build_leaves_nothing(builds: Builds) -> None:
    builds.write(more='service.execute("mkfifo /opt/hello/p; truncate -s 4G /opt/hello/large")')
    build = start(builds)
    wait_until(build, "upload /opt/hello")
    build.send_signal(signal.SIGINT)
    _, err = build.communicate(timeout=100)
    assert build.returncode == 130, err
    assert builds.lists() == []
    assert builds.containers() == []
    assert os.listdir(builds.host.root / "tmp") == []


def test_interrupted_it_keeps_no_container_for_debugging(builds: Builds) -> None:
    builds.write(more=WAITS)
    build = start(builds, "--debug")
    wait_until(build, "execute until")
    build.send_signal(signal.SIGINT)
    build.communicate(timeout=100)
    assert build.returncode == 130
    assert builds.containers() == []


def test_a_dockerfile_that_fails_leaves_no_container(
    builds: Builds, repository: GitRepository
) -> None:
    label = docker_host.unique()
    repository.commit({"Dockerfile": f"FROM {builds.image}\nLABEL of={label}\nRUN exit 5\n"})
    image = f"aysfs-test/broken-{label}:1"
    recipe = f"build =\n    image:'{image}',\n    repo:'{repository.url}',\n"
    (builds.folder / "service.hrd").write_text(recipe)
    builds.fails(13, "--build")
    found = builds.docker.api.containers(all=True, filters={"label": f"of={label}"})
    assert found == []


def test_a_reader_who_goes_away_does_not_end_the_build(builds: Builds) -> None:
    builds.write(more=WAITS)
    build = start(builds)
    wait_until(build, "execute until")
    assert build.stderr is not None
    build.stderr.close()
    go(builds)
    assert build.stdout is not None
    assert b"built in" in build.stdout.read()
    assert build.wait(100) == 0
    build.stdout.close()


def test_a_verification_that_is_ended_leaves_nothing(builds: Builds) -> None:
    builds.write(hrd="verify =\n    cmd:'sleep 50',\n")
    builds.ok("--no-verify")
    verification = subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, "verify", builds.name],
        cwd=builds.host.root,
        env=builds.host.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    log = builds.host.root / f"builds/log/{builds.name}.verify.log"
    end = time.monotonic() + 100
    while not log.is_file() or "check: sleep 50" not in log.read_text():
        assert verification.poll() is None
        assert time.monotonic() < end
    verification.send_signal(signal.SIGTERM)
    _, err = verification.communicate(timeout=100)
    assert verification.returncode == 130, err
    assert builds.containers() == []
    assert aysfs_mounts(builds.host.root) == []
    assert os.listdir(builds.host.root / "tmp") == []


# --- two at once ---------------------------------------------------------------------------


def test_a_second_build_of_a_service_waits_for_the_first(builds: Builds) -> None:
    builds.write(more=WAITS)
    first = start(builds)
    wait_until(first, "execute until")
    impatient, second = start(builds), start(builds)
    for one in (impatient, second):
        wait_until(one, f"under way in process {first.pid}: waiting for its end")
    impatient.send_signal(signal.SIGINT)
    impatient.communicate(timeout=100)
    assert impatient.returncode == 130
    go(builds)
    _, err = first.communicate(timeout=100)
    assert first.returncode == 0, err
    out, err = second.communicate(timeout=100)
    assert second.returncode == 0, err
    assert b"nothing changed" in out
    assert "execute until" in builds.host.ok("log", builds.name)


# --- records -------------------------------------------------------------------------------


def test_a_build_whose_blobs_are_gone_is_built_again(builds: Builds) -> None:
    builds.ok()
    [blob] = [one for one in builds.host.blobs() if one.read_bytes() == b"echo hello\n"]
    blob.unlink()
    assert "built in" in builds.ok()
    assert "nothing changed" in builds.ok()


def test_packs_that_are_gone_are_made_again_without_a_build(builds: Builds) -> None:
    builds.ok()
    whole = builds.host.blobs()
    packs = [one for one in whole if one.read_bytes() != b"echo hello\n"]
    assert len(packs) == 2
    for one in packs:
        one.unlink()
        assert "nothing changed" in builds.ok()
        assert builds.host.blobs() == whole


def test_a_build_that_one_store_lacks_is_built_again(builds: Builds) -> None:
    stores = [word for name in ("one", "two") for word in ("--store", name)]
    for name in ("one", "two"):
        (builds.host.root / name).mkdir()
    builds.ok(*stores)
    (builds.host.root / f"two/dedupe/md/{builds.name}.build").unlink()
    assert "built in" in builds.ok(*stores)
    assert "nothing changed" in builds.ok(*stores)


def test_a_store_may_be_named_by_a_relative_path(builds: Builds) -> None:
    assert "there is no store" in builds.build("--store", "there").err
    (builds.host.root / "there").mkdir()
    builds.ok("--store", "there")
    assert (builds.host.root / f"there/dedupe/md/{builds.name}.flist").is_file()


def test_a_mode_in_the_template_is_an_input(builds: Builds) -> None:
    (builds.folder / "run").write_text("#!/bin/sh\n")
    builds.write(more='service.copyFiles("run", "/opt/hello/run")')
    builds.ok()
    (builds.folder / "run").chmod(0o755)
    assert "built in" in builds.ok()


def test_a_store_that_takes_no_log_has_the_build(builds: Builds) -> None:
    (builds.host.root / f"store/dedupe/md/{builds.name}.log").mkdir(parents=True)
    done = builds.build()
    assert done.code == 0, done.err
    assert "the log stays on this host" in done.err
    assert "nothing changed" in builds.ok()


def test_a_store_that_takes_no_record_is_named_and_what_follows(builds: Builds) -> None:
    record = builds.host.root / f"store/dedupe/md/{builds.name}.build"
    builds.write(more=f"import os; os.makedirs({str(record)!r})")
    done = builds.build()
    assert done.code == 5, done.err
    assert "the list is published" in done.err.splitlines()[-1]
    assert f"{builds.name}.flist" in builds.lists()
    assert builds.containers() == []
    record.rmdir()
    builds.write()
    assert "built in" in builds.ok()


def test_a_build_has_no_tag(builds: Builds) -> None:
    assert "a build has no tag" in builds.host.refused(2, "build", f"{builds.name}@1.2")


# --- what is said --------------------------------------------------------------------------


def test_a_build_that_was_skipped_leaves_the_log_of_the_last_one(builds: Builds) -> None:
    builds.ok()
    for _ in range(3):
        builds.ok()
    log = builds.host.ok("log", builds.name)
    assert "upload /opt/hello" in log
    assert log.count("nothing changed since it was built") == 3
    folder = builds.host.root / "builds/log"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_log_that_cannot_be_written_is_one_clear_line(builds: Builds) -> None:
    (builds.host.root / "builds").mkdir()
    (builds.host.root / "builds/log").touch()
    line = builds.host.refused(13, "build", builds.name)
    assert f"builds/log/{builds.name}.log: " in line


def test_debug_says_how_to_enter_what_was_built_well(builds: Builds) -> None:
    done = builds.build("--debug")
    assert f"docker exec -it aysfs-build-{builds.name} sh" in done.err
    builds.ok("--force")
    assert builds.containers() == []


def test_what_output_says_on_standard_error_is_told(builds: Builds) -> None:
    builds.write(more='service.output("echo the reason >&2; exit 3")')
    assert "the reason" in builds.fails(13)


def test_what_was_heard_while_it_came_is_not_told_again(builds: Builds) -> None:
    builds.write(more='service.execute("echo $((40 + 2))-times; exit 1")')
    assert builds.build().err.count("42-times") == 1


def test_a_raised_text_of_many_lines_becomes_one(builds: Builds) -> None:
    builds.write(more='raise ValueError("first\\nsecond")')
    assert builds.fails(13).splitlines()[-1].endswith("raised ValueError: first")


def test_the_password_of_an_images_repository_is_not_told(builds: Builds) -> None:
    url = "http://someone:opensesame@127.0.0.1:9/x/y.git"
    recipe = f"build =\n    image:'aysfs-test/none:1',\n    repo:'{url}',\n"
    (builds.folder / "service.hrd").write_text(recipe)
    said = builds.fails(13, "--build")
    assert "127.0.0.1:9" in said
    assert "opensesame" not in said + builds.host.ok("log", builds.name)


def test_a_tree_of_several_roots_is_checked_where_it_belongs(builds: Builds) -> None:
    hrd = (
        "verify =\n    cmd:'sh /opt/hello/bin/hello && cat /srv/a:b/it',\n    expect:'it works',\n"
    )
    more = 'service.execute("mkdir /srv/a:b; echo it works >/srv/a:b/it")'
    more += '; service.upload2AYSfs("/srv/a:b")'
    builds.write(more=more, hrd=hrd)
    builds.ok()
    assert "passed" in builds.host.ok("verify", builds.name)


def test_a_build_that_was_not_verified_is_built_again_to_be(builds: Builds) -> None:
    builds.ok("--no-verify")
    assert "nothing changed" in builds.ok("--no-verify")
    assert "built in" in builds.ok()
    assert "nothing changed" in builds.ok()


def test_a_template_that_exits_has_failed(builds: Builds) -> None:
    builds.write(more="raise SystemExit")
    assert f"{builds.name}: its `build` raised SystemExit" in builds.fails(13)


def test_a_failure_names_its_service(builds: Builds) -> None:
    builds.write(more='service.execute("exit 9")')
    assert builds.fails(13).splitlines()[-1] == f"aysfs: {builds.name}: `exit 9` ended with 9"


def test_there_is_no_log_before_a_build(builds: Builds) -> None:
    builds.host.refused(5, "log", builds.name)
    builds.ok()
    assert "acme__other" in builds.host.refused(4, "log", "acme__other")


@pytest.mark.parametrize(("given", "code"), [(b"opensesame\n", 0), (b"", 12)])
def test_a_script_gives_a_password_as_a_line_of_input(host: Host, given: bytes, code: int) -> None:
    words = ["service", "new", "node.ssh", "there", "ip=10.0.0.5", "password=-"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", MAIN, *words],
        cwd=host.root,
        env=host.environment,
        input=given,
        capture_output=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (1 if code else 0)
    file = host.root / "services/node!there/instance.hrd"
    assert file.is_file() is not bool(code)
    if not code:
        assert "opensesame" in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
