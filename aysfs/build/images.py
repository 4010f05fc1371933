"""The image that a build runs in: here already, pulled, or built from its repository.

Serves builds, and verification on another host than the one that built.
"""

import tarfile
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from aysfs.build.checkout import Checkouts
from aysfs.build.engine import Docker
from aysfs.build.log import BuildLog
from aysfs.build.recipe import BuildSpec, GitExport, without_credentials
from aysfs.errors import BadRecipe, BuildFailed

_HELD = 8 << 20


def ensure_image(
    docker: Docker,
    spec: BuildSpec,
    checkouts: Checkouts,
    log: BuildLog,
    *,
    build: bool = False,
    push: bool = False,
) -> str:
    """The id of the image, built from the Dockerfile in ``spec.repo`` when that is asked for."""
    if build:
        image = _build(docker, spec, checkouts, log)
    else:
        image = docker.image_id(spec.image) or ""
        if not image:
            with log.step(f"pull {spec.image}"):
                image = docker.pull(spec.image, log.say)
    if push:
        with log.step(f"push {spec.image}"):
            docker.push(spec.image, log.say)
    return image


def _build(docker: Docker, spec: BuildSpec, checkouts: Checkouts, log: BuildLog) -> str:
    if spec.repo is None:
        raise BadRecipe(
            f"image {spec.image} cannot be built: service.hrd names no repository for it",
            hint="write `build = image:..., repo:...`",
        )
    url, login, passwd = without_credentials(spec.repo)
    source = GitExport(url=url, source="", dest="/", login=login, passwd=passwd, key="build")
    with (
        log.step(f"build {spec.image} from {url}"),
        checkouts.open(source) as checkout,
        tempfile.SpooledTemporaryFile(max_size=_HELD) as context,
    ):
        if not (checkout.folder / "Dockerfile").is_file():
            raise BuildFailed(f"{url} has no Dockerfile")
        packed = cast(BinaryIO, context)  # which it is in all but its type
        _pack(checkout.folder, checkout.time, packed)
        packed.seek(0)
        return docker.build_image(packed, spec.image, log.say)


def _pack(folder: Path, time: int, out: BinaryIO) -> None:
    """A tar that depends on the commit alone: Docker's cache of layers goes by it."""

    def plain(item: tarfile.TarInfo) -> tarfile.TarInfo:
        item.uid = item.gid = 0
        item.uname = item.gname = ""
        item.mtime = time
        return item

    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name, filter=plain)
