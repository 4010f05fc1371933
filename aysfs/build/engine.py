"""Docker: its images, and the start of a container that a build runs in.

Serves builds and their verification. Everything blocks: call it from worker threads.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import docker.errors
import docker.types

from aysfs.build.connection import Connection
from aysfs.build.container import Container, Say
from aysfs.errors import BuildFailed, ServerTrouble

LABEL = "aysfs.build"  # marks our containers with the service they are for


class Mounted(NamedTuple):
    """A folder of the host that a container sees, read-only."""

    source: str
    target: str


class Docker(Connection):
    """One Docker engine."""

    # --- images ------------------------------------------------------------------------------

    def image_id(self, image: str) -> str | None:
        """The id of an image that is here, None when it is not."""
        with self.trouble(f"image {image}"):
            try:
                return str(self.api.inspect_image(image)["Id"])
            except docker.errors.ImageNotFound:
                return None

    def pull(self, image: str, say: Say) -> str:
        """Bring an image from its registry; its id."""
        name, tag = _split(image)
        with self.trouble(f"image {image} cannot be pulled"):
            self._follow(self.patient.pull(name, tag=tag, stream=True, decode=True), say, image)
        found = self.image_id(image)
        if found is None:
            raise ServerTrouble(f"{self.label}: image {image} was pulled and is not there")
        return found

    def build_image(self, context: BinaryIO, image: str, say: Say) -> str:
        """Build an image from a tar of a folder with a Dockerfile; BuildFailed as it says."""
        name, tag = _split(image)
        with self.trouble(f"image {image} cannot be built"):
            lines = self.patient.build(
                fileobj=context,
                custom_context=True,
                tag=f"{name}:{tag}",
                rm=True,
                forcerm=True,  # what failed leaves no container either
                decode=True,
            )
            self._follow(lines, say, image, failed=f"the Dockerfile of image {image} failed")
        found = self.image_id(image)
        if found is None:
            raise BuildFailed(f"{self.label}: the Dockerfile of {image} ended without an image")
        return found

    def push(self, image: str, say: Say) -> None:
        """Push an image to the registry that its name says."""
        name, tag = _split(image)
        with self.trouble(f"image {image} cannot be pushed"):
            self._follow(self.patient.push(name, tag=tag, stream=True, decode=True), say, image)

    def save(self, image: str) -> Iterator[bytes]:
        """An image as ``docker save`` writes it, with its name."""
        with self.trouble(f"image {image} cannot be saved"):
            yield from self.patient.get_image(image)

    def load(self, data: Iterable[bytes]) -> None:
        """Take in an image that ``save`` gave."""
        with self.trouble("an image cannot be loaded"):
            for _ in self.patient.load_image(iter(data)):
                pass

    def _follow(
        self, lines: Iterable[Mapping[str, Any]], say: Say, image: str, failed: str = ""
    ) -> None:
        """Pass on what Docker tells of a long work. Failure is a line of it, not a status."""
        tail: list[str] = []
        for line in lines:
            if "error" in line:
                reason = str(line["error"]).strip()
                if failed:
                    raise BuildFailed(f"{failed}: {reason}", output="".join(tail[-50:]))
                raise ServerTrouble(f"{self.label}: image {image}: {reason}")
            text = str(line.get("stream", ""))
            if "status" in line and "progressDetail" not in line:
                text = f"{line['status']}\n"
            if text:
                tail.append(text)
                say(text.encode())

    # --- containers --------------------------------------------------------------------------

    def start(
        self,
        image: str,
        *,
        name: str,
        service: str,
        mounts: Sequence[Mounted] = (),
        environment: Mapping[str, str] | None = None,
        network: str | None = None,
        fuse: bool = False,
    ) -> Container:
        """A container that waits for commands. One of this name that was left is removed.

        ``fuse`` gives it /dev/fuse and the right to mount.
        """
        with self.trouble(f"no container of image {image} can be started"):
            self._remove_left(name)
            host = self.api.create_host_config(
                # Not as binds: a `:` in a path would part it.
                mounts=[
                    docker.types.Mount(one.target, one.source, type="bind", read_only=True)
                    for one in mounts
                ],
                init=True,
                network_mode=network,
                devices=["/dev/fuse"] if fuse else None,
                cap_add=["SYS_ADMIN"] if fuse else None,
            )
            try:
                made = self.api.create_container(
                    image,
                    command=["sleep", "infinity"],
                    entrypoint=[],
                    name=name,
                    labels={LABEL: service},
                    environment=dict(environment or {}),
                    host_config=host,
                    user="0:0",
                )
            except docker.errors.ImageNotFound:
                raise ServerTrouble(f"{self.label} has no image {image}") from None
            container = Container(self, str(made["Id"]), name)
            try:
                self.api.start(container.id)
            except BaseException:
                container.remove()
                raise
        return container

    def _remove_left(self, name: str) -> None:
        with contextlib.suppress(docker.errors.NotFound):
            found = self.api.inspect_container(name)
            if LABEL not in (found["Config"]["Labels"] or {}):
                raise ServerTrouble(
                    f"{self.label}: a container {name} is there that is not ours",
                    hint="rename or remove it",
                )
            self.api.remove_container(name, force=True, v=True)


def _split(image: str) -> tuple[str, str | None]:
    """Name and tag. Without a tag it is ``latest``; a digest stays a part of the name."""
    if "@" in image:
        return image, None
    head, _, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return (f"{head}/{name}" if head else name), tag or "latest"
