"""The template of python3 builds, mounts on another path, and finds its packages there."""

from pathlib import Path

from integration.conftest import Site


def test_python_imports_its_packages(site: Site, point: Path) -> None:
    site.aysfs("build", "python3")
    site.aysfs("mount", "python3", point)
    program = "import jinja2, sqlalchemy, ssl, sys; print(sys.prefix, jinja2.__file__)"
    prefix, _, package = (
        site.run(point / "bin/python3", "-B", "-c", program).strip().rpartition(" ")
    )
    assert prefix.startswith(str(point))
    assert package.endswith("else/lib/python3/dist-packages/jinja2/__init__.py")
