"""Each shipped template builds, verifies, mounts on another path, and runs."""

import subprocess
import time
from pathlib import Path

from integration.conftest import Site
from tests.docker_host import GitRepository, free_port


def test_base_is_a_tree_of_scripts(site: Site, point: Path) -> None:
    site.aysfs("build", "base")
    assert "as listed" in site.aysfs("verify", "base")
    site.aysfs("mount", "base", point)
    assert site.run(point / "bin/js-which", "js-env").strip() == f"{point}/bin/js-env"


def test_redis_answers_ping_and_keeps_what_it_is_given(site: Site, point: Path) -> None:
    assert "built in" in site.aysfs("build", "redis")
    assert "nothing changed" in site.aysfs("build", "redis")
    site.aysfs("mount", "redis", point)
    port, data = free_port(), site.root / "redis"
    data.mkdir()
    server = subprocess.Popen(
        [point / "bin/redis-server", "--port", str(port), "--bind", "127.0.0.1"],
        cwd=data,
        stdout=subprocess.DEVNULL,
    )
    try:
        client = (point / "bin/redis-cli", "-p", port)
        wait_for_answer(*client)
        assert site.run(*client, "set", "key", "a value") == "OK\n"
        assert site.run(*client, "get", "key") == "a value\n"
        site.run(*client, "save")
        assert (data / "dump.rdb").stat().st_size > 0
    finally:
        server.terminate()
        server.wait(30)


def test_nginx_serves_a_page(site: Site, point: Path) -> None:
    site.aysfs("build", "nginx")
    site.aysfs("mount", "nginx", point)
    linked = site.run("ldd", point / "sbin/nginx")
    assert f"{point}/sbin/../lib/libpcre2-8.so" in linked
    assert "it works" in site.run(point / "sbin/nginx-check")


def test_python_imports_its_packages(site: Site, point: Path) -> None:
    site.aysfs("build", "python3")
    site.aysfs("mount", "python3", point)
    program = "import jinja2, sqlalchemy, ssl, sys; print(sys.prefix, jinja2.__file__)"
    prefix, _, package = (
        site.run(point / "bin/python3", "-B", "-c", program).strip().rpartition(" ")
    )
    assert prefix.startswith(str(point))
    assert package.endswith("else/lib/python3/dist-packages/jinja2/__init__.py")


def test_portal_is_exactly_what_its_repository_has(site: Site, point: Path, tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "srv" / "jumpscale" / "portal")
    repository.commit({"lib/portal/__init__.py": "name = 'portal'\n", "tests/x": "not exported"})
    # The repository of the template, kept in a mirror as companies do.
    home = tmp_path / "home"
    home.mkdir()
    public = "https://github.com/Jumpscale/jumpscale_portal"
    (home / ".gitconfig").write_text(f'[url "{repository.url}"]\n\tinsteadOf = {public}\n')
    site.aysfs("build", "portal", HOME=str(home))
    site.aysfs("mount", "portal", point)
    assert [path.name for path in point.iterdir()] == ["__init__.py"]
    assert (point / "__init__.py").read_text() == "name = 'portal'\n"


def wait_for_answer(*client: object) -> None:
    """Ask until the server answers."""
    end = time.monotonic() + 60
    ping = [*map(str, client), "ping"]
    while subprocess.run(ping, capture_output=True, check=False).stdout != b"PONG\n":
        assert time.monotonic() < end
