"""The template of portal: a build that is a git export."""

from pathlib import Path

from integration.conftest import Site
from tests.docker_host import GitRepository


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
