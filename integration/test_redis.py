"""The template of redis builds, mounts on another path, and is a server that works."""

import subprocess
import time
from pathlib import Path

from integration.conftest import Site
from tests.docker_host import free_port


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


def wait_for_answer(*client: object) -> None:
    """Ask until the server answers."""
    end = time.monotonic() + 60
    ping = [*map(str, client), "ping"]
    while subprocess.run(ping, capture_output=True, check=False).stdout != b"PONG\n":
        assert time.monotonic() < end
