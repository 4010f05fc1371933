"""The fixtures themselves: an image in a registry, a container, sshd, git over ssh."""

import os
import subprocess
from pathlib import Path

from aysfs.build.container import Container
from aysfs.build.engine import Docker
from tests.docker_host import GitRepository, Sshd, run, small_image


def test_an_image_goes_to_the_registry_of_the_tests(docker: Docker, registry: str) -> None:
    name = f"{registry}/acme/small:1"
    small_image(name)
    before = docker.image_id(name)
    said: list[bytes] = []
    docker.push(name, said.append)
    run("docker", "rmi", name)
    assert docker.image_id(name) is None
    assert docker.pull(name, said.append) == before
    run("docker", "rmi", name)


def test_the_base_image_is_a_debian(container: Container) -> None:
    code, said = container.output("cat /etc/debian_version && command -v find tar touch")
    assert code == 0
    assert said[:3] == b"12."


def test_git_reaches_a_repository_through_sshd(sshd: Sshd, repository: GitRepository) -> None:
    commit = repository.commit({"a": "1"})
    url = f"ssh://{sshd.login}@{sshd.host}:{sshd.port}{repository.folder}"
    said = run("git", "ls-remote", url, "HEAD", GIT_SSH_COMMAND=f"ssh -F {sshd.ssh_config()}")
    assert said.split() == [commit, "HEAD"]


STUBS = {
    "docker": '[ -e "$0.running" ]',
    "dockerd": 'touch "${0%d}.running"; echo $$ >"$0.pid"; exec sleep 600',
    "pgrep": "false",
}


def test_who_reads_what_the_start_of_docker_says_does_not_wait_for_its_end(tmp_path: Path) -> None:
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    script = Path(__file__).parents[2] / "scripts/docker.sh"
    try:
        done = subprocess.run(
            [script], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        os.kill(int((tmp_path / "dockerd.pid").read_text()), 9)
    assert "starting dockerd" in done.stderr
