"""The order of builds: what is needed first, each once, and no circles."""

from pathlib import Path

import pytest

from aysfs.build.plan import plan
from aysfs.build.template import Templates
from aysfs.errors import BadRecipe, TemplateMissing


def template(root: Path, name: str, *needs: str, type_: str = "build") -> None:
    folder = root / "acme" / name
    folder.mkdir(parents=True)
    lines = ["build = image:'x',"]
    for number, need in enumerate(needs):
        lines.append(f"\ndependencies.{number} =\n    name:'{need}',\n    type:'{type_}',")
    (folder / "service.hrd").write_text("\n".join(lines) + "\n")


def names(root: Path, *wanted: str) -> list[str]:
    found = plan(Templates([root], default_domain="acme"), wanted)
    return [name.name for name in found]


def test_what_is_needed_comes_first_and_once(tmp_path: Path) -> None:
    template(tmp_path, "app", "lib", "tool")
    template(tmp_path, "tool", "lib")
    template(tmp_path, "lib")
    assert names(tmp_path, "app", "tool") == ["lib", "tool", "app"]


def test_only_dependencies_of_builds_count(tmp_path: Path) -> None:
    template(tmp_path, "app", "lib", type_="runtime")
    template(tmp_path, "lib")
    assert names(tmp_path, "app") == ["app"]


def test_a_circle_is_refused_by_name(tmp_path: Path) -> None:
    template(tmp_path, "a", "b")
    template(tmp_path, "b", "c")
    template(tmp_path, "c", "b")
    with pytest.raises(BadRecipe, match="acme__b -> acme__c -> acme__b"):
        names(tmp_path, "a")


def test_a_dependency_without_a_template_is_missing(tmp_path: Path) -> None:
    template(tmp_path, "app", "nowhere")
    with pytest.raises(TemplateMissing, match="acme__nowhere"):
        names(tmp_path, "app")
