"""The template of base: it builds and mounts here, and in containers both ways.

A build is bound into one from the host, and mounted inside of one.
"""

import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from aysfs.build.container import Container
from aysfs.build.engine import Docker, Mounted
from integration.conftest import DEBIAN, ROOT, Site, context

INSIDE = "aysfs-test/inside:1"
DOCKERFILE = f"""\
FROM {DEBIAN}
RUN apt-get -q update && apt-get -q -y --no-install-recommends install fuse3 python3
"""


@pytest.fixture
def built(site: Site) -> str:
    site.aysfs("build", "base")
    return "base"


def test_base_is_a_tree_of_scripts(site: Site, point: Path) -> None:
    site.aysfs("build", "base")
    assert "as listed" in site.aysfs("verify", "base")
    site.aysfs("mount", "base", point)
    assert site.run(point / "bin/js-which", "js-env").strip() == f"{point}/bin/js-env"


def test_bound_in_from_the_host(site: Site, docker: Docker, built: str, point: Path) -> None:
    site.aysfs("mount", built, point)
    bound = [Mounted(str(point), "/opt/jumpscale8")]
    container = docker.start(DEBIAN, name="aysfs-test-bound", service="test", mounts=bound)
    try:
        assert container.output(["/opt/jumpscale8/bin/js-ls"]) == (0, b"js-env\njs-ls\njs-which\n")
        code, _ = container.output(["sh", "-c", "echo x >/opt/jumpscale8/bin/js-ls"])
        assert code != 0
        code, _ = container.output(
            [
                "sh",
                "-c",
                "setpriv --reuid 1234 --regid 1234 --clear-groups /opt/jumpscale8/bin/js-env",
            ]
        )
        assert code == 0
    finally:
        container.remove()


@pytest.fixture
def inside(site: Site, docker: Docker) -> Iterator[Container]:
    """A container that has FUSE, this project and the store, and nothing of the mount."""
    if docker.image_id(INSIDE) is None:
        docker.build_image(context(DOCKERFILE), INSIDE, lambda _: None)
    mounts = [
        Mounted(str(ROOT), "/src"),
        Mounted(sysconfig.get_path("purelib"), "/site"),
        Mounted(str(site.root / "store"), "/store"),
    ]
    name = "aysfs-test-inside"
    container = docker.start(INSIDE, name=name, service="test", mounts=mounts, fuse=True)
    yield container
    container.remove()


def test_mounted_inside_a_container(built: str, inside: Container) -> None:
    said: list[bytes] = []
    environment = {
        "PYTHONPATH": "/src:/site",
        "AYSFS_STORE": "/store",
        "AYSFS_KEEP_FREE": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = "from aysfs.cli.main import main; main()"
    code = inside.run(
        f"""set -e
        mkdir -p /opt/jumpscale8
        aysfs() {{ python3 -c '{program}' "$@"; }}
        aysfs mount {built} /opt/jumpscale8
        /opt/jumpscale8/bin/js-which js-ls
        aysfs status
        aysfs umount /opt/jumpscale8
        ls -A /opt/jumpscale8
        """,
        said.append,
        environment=environment,
    )
    text = b"".join(said).decode()
    assert code == 0, text
    told, found = text.splitlines()[:2]  # its cache is on the container's own overlay
    assert told.startswith("aysfs: not with the overlay engine: ")
    assert found == "/opt/jumpscale8/bin/js-ls"


def test_what_a_container_writes_never_reaches_the_store(site: Site, built: str) -> None:
    """The verification of the build has run in a container: every blob is as it was."""
    for blob in (site.root / "store" / "dedupe").glob("?/?/*"):
        md5 = subprocess.run(["md5sum", blob], capture_output=True, text=True, check=True).stdout
        assert md5.startswith(blob.name)
