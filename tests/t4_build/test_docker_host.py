"""The fixtures themselves: an image in a registry, a container, sshd, git over ssh."""

from aysfs.build.container import Container, Docker
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
