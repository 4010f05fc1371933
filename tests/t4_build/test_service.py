"""What templates act through: commands, files, libraries, in a real container."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aysfs.build.container import Container
from aysfs.build.log import BuildLog
from aysfs.build.service import Service
from aysfs.build.template import Template
from aysfs.errors import BuildFailed, ServerTrouble
from aysfs.names import parse_name


@pytest.fixture
def service(container: Container, tmp_path: Path) -> Iterator[Service]:
    folder = tmp_path / "template"
    (folder / "files" / "bin").mkdir(parents=True)
    (folder / "service.hrd").write_text("build = image:'x',\ncolour = 'green'\n")
    (folder / "files" / "bin" / "run").write_text("#!/bin/sh\necho ran\n")
    (folder / "files" / "bin" / "run").chmod(0o755)
    placed: list[int] = []

    def place() -> list[tuple[str, str]]:
        placed.append(1)
        assert len(placed) == 1
        return [("a", "/b")]

    with BuildLog(tmp_path / "build.log", lambda _: None) as log:
        yield Service(
            Template(folder, parse_name("acme__x")),
            container,
            log,
            place=place,
            upload=lambda path: log.note(f"uploaded {path}"),
            environment={"SOURCE_DATE_EPOCH": "12"},
        )


def log_of(tmp_path: Path) -> str:
    return (tmp_path / "build.log").read_text()


def test_a_command_runs_and_its_output_is_logged(service: Service, tmp_path: Path) -> None:
    code = service.execute(
        'echo "$A $SOURCE_DATE_EPOCH $PWD"; exit 3',
        environment={"A": "1"},
        directory="/usr",
        check=False,
    )
    assert code == 3
    assert "1 12 /usr\n" in log_of(tmp_path)


def test_a_command_that_fails_says_what_it_said(service: Service) -> None:
    with pytest.raises(BuildFailed, match=re.escape("`echo oops; false` ended with 1")) as caught:
        service.execute("echo oops; false")
    assert "oops" in caught.value.output


def test_a_command_for_a_container_that_was_killed_says_so(
    service: Service, container: Container
) -> None:
    container.engine.api.kill(container.id)
    with pytest.raises(ServerTrouble, match="the container was stopped from outside"):
        service.execute("true")


def test_output_is_returned(service: Service) -> None:
    assert service.output("printf 'a\\nb'") == "a\nb"
    with pytest.raises(BuildFailed, match="ended with 4"):
        service.output("exit 4")


def test_files_of_the_template_arrive_with_their_modes(service: Service) -> None:
    service.copyFiles("files", "/opt/deep/er")
    assert service.output("/opt/deep/er/bin/run; stat -c '%u %a' /opt/deep/er/bin/run") == (
        "ran\n0 755\n"
    )


@pytest.mark.parametrize(
    ("source", "dest"),
    [
        ("nowhere", "/opt"),
        ("../template", "/opt"),
        ("/etc", "/opt"),
        ("files", "opt"),
        ("files", "/opt/../etc"),
    ],
)
def test_files_come_from_the_template_and_go_below_root(
    service: Service, source: str, dest: str
) -> None:
    with pytest.raises(BuildFailed):
        service.copyFiles(source, dest)


def test_the_recipe_is_placed_once(service: Service) -> None:
    assert service.installRecipe() == service.installRecipe() == [("a", "/b")]


@pytest.mark.parametrize("path", ["relative", "/a/../b"])
def test_only_plain_absolute_paths_are_uploaded(service: Service, path: str) -> None:
    with pytest.raises(BuildFailed, match="absolute"):
        service.upload2AYSfs(path)


def test_libraries_are_copied_without_those_of_libc(service: Service) -> None:
    service.execute("mkdir -p /opt/x/bin; cp /bin/ls /opt/x/bin/")
    copies = service.copyLibs("/opt/x/bin/ls")
    names = {Path(copy).name for copy in copies}
    assert any(name.startswith("libselinux.so") for name in names)
    assert not any(name.startswith(("libc.so", "ld-linux", "linux-vdso")) for name in names)
    assert set(service.output("ls /opt/x/lib").split()) == names
    assert service.copyLibs("/opt/x/bin/ls", "/opt/x/lib") == copies


def remove_library(service: Service) -> None:
    service.execute("rm $(ldd /bin/ls | awk '/libselinux/ {print $3}')")


def no_binary(service: Service) -> None:
    service.execute("rm /bin/ls")


@pytest.mark.parametrize(
    ("damage", "reason"), [(remove_library, "libselinux"), (no_binary, "ldd of /bin/ls")]
)
def test_a_library_that_is_missing_is_named(
    service: Service, damage: Callable[[Service], None], reason: str
) -> None:
    damage(service)
    with pytest.raises(BuildFailed, match=reason):
        service.copyLibs("/bin/ls", "/opt/lib")


def test_the_hrd_and_the_log_are_there(service: Service, tmp_path: Path) -> None:
    assert service.hrd.get_str("colour") == "green"
    service.log("halfway")
    assert "aysfs: halfway\n" in log_of(tmp_path)
