"""The template of nginx builds, mounts on another path, and serves from there."""

from pathlib import Path

from integration.conftest import Site


def test_nginx_serves_a_page(site: Site, point: Path) -> None:
    site.aysfs("build", "nginx")
    site.aysfs("mount", "nginx", point)
    linked = site.run("ldd", point / "sbin/nginx")
    assert f"{point}/sbin/../lib/libpcre2-8.so" in linked
    assert "it works" in site.run(point / "sbin/nginx-check")
