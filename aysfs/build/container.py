"""Docker: images, and the container that a build runs in. The only module that knows the SDK.

Serves builds and their verification. Everything blocks: call it from worker threads. The SDK's
high-level results are read from prose (its issue 1625), so the low-level API is used, whose
answers are structured. The SDK's errors end here.
"""

import contextlib
import shlex
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, BinaryIO, NamedTuple

import docker.errors
import docker.types
import requests.exceptions
import urllib3.exceptions
from docker import APIClient

from aysfs.errors import BuildFailed, ServerTrouble

Say = Callable[[bytes], None]
"""Takes output as it comes, in pieces that end anywhere."""

LOCAL = "unix:///var/run/docker.sock"
TIMEOUT = 60  # seconds for an answer of Docker itself; what runs in a container may take longer
_STOPPED = "the container was stopped from outside"
_KILLED = 137  # the exit code of SIGKILL: of the command alone, or of the whole container,
_DYING = 5.0  # which Docker says to run for a moment after the last of it has died
LABEL = "aysfs.build"  # marks our containers with the service they are for
_START_HINT = "is Docker running, and may this user use it?"


class Mounted(NamedTuple):
    """A folder of the host that a container sees, read-only."""

    source: str
    target: str


class Docker:
    """One Docker engine. ``label`` names it in messages."""

    def __init__(self, address: str = LOCAL, label: str = "Docker on this host") -> None:
        """ServerTrouble when nothing answers at the address."""
        self.label = label
        self.reach = ""  # what a person types before a command to run it on the engine's host
        with self._trouble("cannot be reached", hint=_START_HINT):
            self._api: Any = APIClient(base_url=address, version="auto", timeout=TIMEOUT)
            # For what a container says: a compiler may be silent for minutes.
            self._patient: Any = APIClient(base_url=address, version="auto", timeout=None)

    def close(self) -> None:
        self._api.close()
        self._patient.close()

    # --- images ------------------------------------------------------------------------------

    def image_id(self, image: str) -> str | None:
        """The id of an image that is here, None when it is not."""
        with self._trouble(f"image {image}"):
            try:
                return str(self._api.inspect_image(image)["Id"])
            except docker.errors.ImageNotFound:
                return None

    def pull(self, image: str, say: Say) -> str:
        """Bring an image from its registry; its id."""
        name, tag = _split(image)
        with self._trouble(f"image {image} cannot be pulled"):
            self._follow(self._patient.pull(name, tag=tag, stream=True, decode=True), say, image)
        found = self.image_id(image)
        if found is None:
            raise ServerTrouble(f"{self.label}: image {image} was pulled and is not there")
        return found

    def build_image(self, context: BinaryIO, image: str, say: Say) -> str:
        """Build an image from a tar of a folder with a Dockerfile; BuildFailed as it says."""
        name, tag = _split(image)
        with self._trouble(f"image {image} cannot be built"):
            lines = self._patient.build(
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
        with self._trouble(f"image {image} cannot be pushed"):
            self._follow(self._patient.push(name, tag=tag, stream=True, decode=True), say, image)

    def save(self, image: str) -> Iterator[bytes]:
        """An image as ``docker save`` writes it, with its name."""
        with self._trouble(f"image {image} cannot be saved"):
            yield from self._patient.get_image(image)

    def load(self, data: Iterable[bytes]) -> None:
        """Take in an image that ``save`` gave."""
        with self._trouble("an image cannot be loaded"):
            for _ in self._patient.load_image(iter(data)):
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
    ) -> "Container":
        """A container that waits for commands. One of this name that was left is removed.

        ``fuse`` gives it /dev/fuse and the right to mount.
        """
        with self._trouble(f"no container of image {image} can be started"):
            self._remove_left(name)
            host = self._api.create_host_config(
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
                made = self._api.create_container(
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
                self._api.start(container.id)
            except BaseException:
                container.remove()
                raise
        return container

    def _remove_left(self, name: str) -> None:
        with contextlib.suppress(docker.errors.NotFound):
            found = self._api.inspect_container(name)
            if LABEL not in (found["Config"]["Labels"] or {}):
                raise ServerTrouble(
                    f"{self.label}: a container {name} is there that is not ours",
                    hint="rename or remove it",
                )
            self._api.remove_container(name, force=True, v=True)

    @contextlib.contextmanager
    def _trouble(self, what: str, hint: str | None = None) -> Iterator[None]:
        """The SDK's errors, and those of the libraries below it, become ServerTrouble."""
        try:
            yield
        except docker.errors.APIError as error:
            reason = error.explanation or str(error)
            raise ServerTrouble(f"{self.label}: {what}: {_one_line(reason)}", hint=hint) from error
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,  # a stream that breaks off
        ) as error:
            reason = _reason(error)
            raise ServerTrouble(f"{self.label}: {what}: {reason}", hint=hint) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServerTrouble(f"{self.label}: {what}: {reason}", hint=hint) from error


class Container:
    """A running container."""

    def __init__(self, engine: Docker, identity: str, name: str) -> None:
        self.engine = engine
        self.id = identity
        self.name = name

    def run(
        self,
        command: str | Sequence[str],
        say: Say,
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> int:
        """Run a command, a text by ``sh -c``, to its end; its exit code.

        ServerTrouble when the container is gone.
        """
        with self._exec(command, environment, directory) as running:
            for out, err in running.frames:
                say(out or err or b"")
        return running.exit_code()

    def output(
        self,
        command: str | Sequence[str],
        *,
        say: Say | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Run a command; its exit code and all that it says on its standard output.

        ``say`` takes what it says on standard error.
        """
        pieces: list[bytes] = []
        with self._exec(command, environment, None) as running:
            for out, err in running.frames:
                if out:
                    pieces.append(out)
                if err and say is not None:
                    say(err)
        return running.exit_code(), b"".join(pieces)

    def put(self, archive: BinaryIO | bytes, path: str = "/") -> None:
        """Unpack a tar below a directory of the container that is there."""
        with self._trouble(f"nothing can be put into {path}"):
            self.engine._api.put_archive(self.id, path, archive)

    @contextlib.contextmanager
    def stream(self, command: Sequence[str]) -> Iterator["Output"]:
        """A command's standard output as it comes. The receiver asks for its end."""
        with self._exec(command, None, None) as running:
            yield Output(running)

    @contextlib.contextmanager
    def archive(self, path: str) -> Iterator[Iterator[bytes]]:
        """A file or directory as Docker packs it: no ``user.*`` xattrs and no nanoseconds."""
        with self._trouble(f"{path} cannot be read"):
            try:
                data, _ = self.engine._patient.get_archive(self.id, path, chunk_size=1 << 20)
            except docker.errors.NotFound:
                raise BuildFailed(f"there is no {path} in the container") from None
            try:
                yield data
            finally:
                data.close()  # Docker locks the container for as long as somebody may read on

    def pid(self) -> int:
        """The process on the engine's host that holds the container's namespaces."""
        with self._trouble("cannot be looked at"):
            return int(self.engine._api.inspect_container(self.id)["State"]["Pid"])

    @property
    def entry(self) -> str:
        """The command line by which a person looks into it."""
        command = f"docker exec -it {self.name} sh"
        return f"{self.engine.reach} {command}" if self.engine.reach else command

    def remove(self) -> None:
        """Stop it and remove it with its volumes; gone already is fine."""
        with self._trouble("cannot be removed"), contextlib.suppress(docker.errors.NotFound):
            self.engine._api.remove_container(self.id, force=True, v=True)

    @contextlib.contextmanager
    def _exec(
        self,
        command: str | Sequence[str],
        environment: Mapping[str, str] | None,
        directory: str | None,
    ) -> Iterator["_Running"]:
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        with self._trouble(f"`{shlex.join(words)[:200]}` cannot be run"):
            try:
                made = self.engine._api.exec_create(
                    self.id, words, environment=dict(environment or {}), workdir=directory
                )
                raw = self.engine._patient.exec_start(made["Id"], socket=True)
            except docker.errors.NotFound as error:
                raise ServerTrouble(f"{self}: the container is gone") from error
            except docker.errors.APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                # It does not run (nor is it paused: nobody pauses ours).
                raise ServerTrouble(f"{self}: {_STOPPED}") from error
            response = raw._response
            try:
                yield _Running(self, made["Id"], _frames(response.raw._fp.fp))
            finally:
                raw._sock.close()
                response.close()

    def _trouble(self, what: str) -> contextlib.AbstractContextManager[None]:
        return self.engine._trouble(f"container {self.name}: {what}")

    def __str__(self) -> str:
        return f"{self.engine.label}: container {self.name}"


class _Running:
    """A command under way: pairs of what it said on standard output and on standard error."""

    def __init__(self, container: Container, identity: str, frames: Iterable[Any]) -> None:
        self.frames: Iterator[tuple[bytes | None, bytes | None]] = iter(frames)
        self._container = container
        self._identity = identity

    def exit_code(self) -> int:
        """Its exit code. A container that was killed leaves none."""
        api = self._container.engine._api
        with self._container._trouble("its end is not known"):
            try:
                code = api.exec_inspect(self._identity)["ExitCode"]
                alive = self._is_alive(patience=_DYING if code == _KILLED else 0.0)
            except docker.errors.NotFound:
                code, alive = None, False
        if code is None or not alive:
            raise ServerTrouble(f"{self._container}: {_STOPPED}")
        return int(code)

    def _is_alive(self, patience: float) -> bool:
        """Whether the container runs, and still does in so many seconds."""
        end = time.monotonic() + patience
        api = self._container.engine._api
        while api.inspect_container(self._container.id)["State"]["Running"]:
            if time.monotonic() >= end:
                return True
            time.sleep(0.1)
        return False


class Output:
    """A command's standard output, read like a file. What it says on standard error is kept."""

    _KEPT = 64 << 10

    def __init__(self, running: _Running) -> None:
        self._running = running
        self._rest = memoryview(b"")
        self._said = bytearray()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, less only at the end."""
        pieces: list[bytes] = []
        while size > 0:
            if not self._rest:
                data = self._next()
                if data is None:
                    break
                self._rest = memoryview(data)
            piece = self._rest[:size]
            self._rest = self._rest[len(piece) :]
            size -= len(piece)
            pieces.append(bytes(piece))
        return b"".join(pieces)

    def end(self) -> tuple[int, str]:
        """Read to the end; the exit code, and what was said on standard error."""
        while self._next() is not None:
            pass
        return self._running.exit_code(), self._said.decode(errors="replace").strip()

    def _next(self) -> bytes | None:
        for out, err in self._running.frames:
            if err and len(self._said) < self._KEPT:
                self._said += err
            if out:
                return out
        return None


def _frames(file: BinaryIO) -> Iterator[tuple[bytes | None, bytes | None]]:
    """What a command says, from the buffered file that the answer's head was read from.

    The SDK reads the socket below it, and loses what came in one piece with the head: over ssh
    the whole output of `echo` was seen to be lost.
    """
    while len(head := file.read(8)) == 8:
        kind, size = struct.unpack(">BxxxL", head)
        data = file.read(size)
        yield (data, None) if kind == 1 else (None, data)


def _split(image: str) -> tuple[str, str | None]:
    """Name and tag. Without a tag it is ``latest``; a digest stays a part of the name."""
    if "@" in image:
        return image, None
    head, _, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return (f"{head}/{name}" if head else name), tag or "latest"


def _reason(error: Exception) -> str:
    """What the system said, below the texts that three libraries wrap around it."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__context__
    return _one_line(str(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())
