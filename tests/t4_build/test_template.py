"""Templates: where they are found, their digest, what is wrong with them, and their actions."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aysfs.build.actions import ActionsBase, ActionsBaseMgmt, ActionsBaseTmpl
from aysfs.build.hrd import Hrd
from aysfs.build.recipe import GitExport, VerifySpec
from aysfs.build.template import Template, Templates, shipped
from aysfs.errors import Ambiguous, BadHrd, BadName, BadRecipe, TemplateMissing
from aysfs.names import ServiceName

GOOD = """
build = image:'debian:12'
verify = cmd:true
git.export.1 = url:/srv/x, dest:/opt/$(service.name)
"""


def template(root: Path, place: str = "acme/redis", recipe: str = GOOD, **files: str) -> Template:
    folder = root / place
    folder.mkdir(parents=True)
    (folder / "service.hrd").write_text(recipe)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return Template(folder, ServiceName("acme", "redis"))


def names(*roots: Path) -> list[str]:
    return [str(one.name) for one in Templates(roots).list()]


# --- finding -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("acme/redis", "acme__redis"),
        ("acme__redis", "acme__redis"),
        ("redis", "jumpscale__redis"),
        ("_databases/redis", "jumpscale__redis"),
        ("_databases/more/redis", "jumpscale__redis"),
        ("acme/_databases/redis", "acme__redis"),
        ("x/acme__node.ssh", "acme__node.ssh"),
    ],
)
def test_a_place_stands_for_a_name(tmp_path: Path, place: str, name: str) -> None:
    template(tmp_path, place)
    found = Templates([tmp_path]).find(name)
    assert (str(found.name), found.folder) == (name, tmp_path / place)
    assert names(tmp_path) == [name]


def test_a_bare_name_is_the_default_domains(tmp_path: Path) -> None:
    template(tmp_path, "jumpscale/redis")
    template(tmp_path, "acme/redis")
    assert Templates([tmp_path]).find("redis").name.domain == "jumpscale"
    assert Templates([tmp_path], default_domain="acme").find("redis@v1").name.domain == "acme"


def test_only_folders_with_a_recipe_and_a_name_are_templates(tmp_path: Path) -> None:
    template(tmp_path, "acme/redis/inner")
    template(tmp_path, "acme/NotAName")
    template(tmp_path, ".hidden/x")
    template(tmp_path, "a/b/c/d/e/too-deep")
    (tmp_path / "acme/redis/service.hrd").write_text("")
    os.symlink(tmp_path, tmp_path / "loop")
    assert names(tmp_path, tmp_path / "not-there") == ["acme__redis"]


def test_the_first_root_that_has_it_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    template(first, "acme/redis")
    template(second, "acme/redis")
    template(second, "acme/nginx")
    templates = Templates([first, second, first / "../1"])
    assert templates.find("acme__redis").folder == first / "acme/redis"
    assert [one.folder.parts[-3] for one in templates.list()] == ["2", "1"]


def test_several_in_one_root_are_refused_with_their_folders(tmp_path: Path) -> None:
    template(tmp_path, "acme/redis")
    template(tmp_path, "acme__redis")
    with pytest.raises(Ambiguous) as caught:
        Templates([tmp_path]).find("acme__redis")
    assert str(caught.value) == (
        f"multiple templates found for `acme__redis`: {tmp_path}/acme/redis, {tmp_path}/acme__redis"
    )


def test_an_unknown_one_is_refused_with_near_names(tmp_path: Path) -> None:
    template(tmp_path, "jumpscale/redis")
    template(tmp_path, "acme/nginx")
    templates = Templates([tmp_path])
    with pytest.raises(TemplateMissing) as caught:
        templates.find("reddis")
    assert str(caught.value) == (
        f"no template `jumpscale__reddis` in {tmp_path}; did you mean jumpscale__redis?"
    )
    with pytest.raises(TemplateMissing, match="did you mean acme__nginx"):
        templates.find("nginx")
    with pytest.raises(TemplateMissing, match=r"no template `jumpscale__zzz` in \S+$"):
        templates.find("zzz")
    with pytest.raises(TemplateMissing, match="in no folder"):
        Templates([]).find("zzz")
    with pytest.raises(BadName):
        templates.find("../redis")


# --- what a template holds ---------------------------------------------------------------


def test_a_recipe_knows_its_service_and_its_system(tmp_path: Path) -> None:
    made = template(tmp_path, recipe=GOOD + "a = $(system.paths.base)/$(service.domain)\n")
    assert made.hrd.get("a") == "/opt/jumpscale8/acme"
    assert made.git_exports == [GitExport("/srv/x", "", "/opt/redis")]
    assert made.web_exports == []
    assert made.build_spec is not None
    assert made.verify_spec == VerifySpec("true")
    assert made.schema is None
    (made.folder / "instance.hrd").write_text("port = @ASK\n")
    schema = Template(made.folder, made.name).schema
    assert schema is not None
    assert schema.exists("port")


def test_the_digest_is_of_paths_modes_and_bytes_and_nothing_else(tmp_path: Path) -> None:
    one, two = template(tmp_path / "1", actions_mgmt=""), template(tmp_path / "2", actions_mgmt="")
    os.utime(two.folder / "service.hrd", (1, 1))
    (two.folder / "__pycache__").mkdir()
    (two.folder / "__pycache__" / "x.pyc").write_text("x")
    (two.folder / "md.flist").write_text("x")
    assert one.digest() == two.digest()
    assert re.fullmatch("[0-9a-f]{64}", one.digest())
    seen = {one.digest()}
    for name, text in (("a", "bc"), ("ab", "c"), ("sub/x", "")):
        path = two.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        seen.add(two.digest())
        path.unlink()
    (two.folder / "a").symlink_to("bc")
    seen.add(two.digest())
    (two.folder / "service.hrd").chmod(0o755)
    seen.add(two.digest())
    assert len(seen) == 6


def test_a_good_template_has_no_findings(tmp_path: Path) -> None:
    assert template(tmp_path).check() == []


@pytest.mark.parametrize(
    ("recipe", "place", "reason"),
    [
        ("git.export.1 = url:x, dest:/x\n", "service.hrd", "no image"),
        ("build = repo:x\n", "service.hrd:1", "image is missing"),
        (GOOD + "git.export.2 = url:x\n", "service.hrd:5", "dest is missing"),
        (GOOD + "git.export.2 = url:x, dest:/a/../b\n", "service.hrd:5", "climbs out with `..`"),
        (GOOD + "git.export.2 = url:x, dest:/a, dst:b\n", "service.hrd:5", "unknown key `dst`"),
        (GOOD + "git.export.2 = url:x, dest:/a, platform:plan9\n", "service.hrd:5", "`plan9`"),
        (GOOD + "web.export.1 = url:x\n", "service.hrd:5", "dest is missing"),
        (GOOD + "git.export.2 = text\n", "service.hrd:5", "is no dict"),
        (GOOD + "dependencies.1 = type:build\n", "service.hrd:5", "name is missing"),
        (GOOD + "x = 'y\n", "service.hrd:5", "the quote is not closed"),
        (GOOD + "git.exprot.2 = url:x, dest:/a\n", "service.hrd:5", "is `git.export` meant?"),
        (GOOD + "git.exports.2 = url:x, dest:/a\n", "service.hrd:5", "is `git.export` meant?"),
        (GOOD + "dependency.1 = name:x\n", "service.hrd:5", "is `dependencies` meant?"),
    ],
)
def test_what_is_wrong_is_found_with_its_place(
    tmp_path: Path, recipe: str, place: str, reason: str
) -> None:
    findings = template(tmp_path, recipe=recipe).check()
    assert [one for one in findings if one.place.endswith(place) and reason in one.reason]
    assert len(findings) == 1


def test_actions_that_do_not_load_are_a_finding(tmp_path: Path) -> None:
    (finding,) = template(tmp_path, actions_mgmt="x = 1\nraise OSError('no\\nway')\n").check()
    assert str(finding) == f"{tmp_path}/acme/redis/actions_mgmt.py:2: OSError: no"


# --- actions -----------------------------------------------------------------------------

ACTIONS = """
from aysfs.build.actions import ActionsBase

class Actions(ActionsBase):
    def build(self, service):
        service.upload2AYSfs("{}")
"""


class Recorder:
    """A service object that keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def installRecipe(self) -> list[tuple[str, str]]:  # noqa: N802 - the manual's name
        self.asked.append("recipe")
        return [("/code/x", "/opt/x"), ("/code/y", "/opt/y")]

    def upload2AYSfs(self, path: str) -> None:  # noqa: N802 - the manual's name
        self.asked.append(path)


def built(made: Template) -> list[str]:
    service = Recorder()
    made.actions().build(service)
    return service.asked


def test_the_default_build_is_the_manuals(tmp_path: Path) -> None:
    assert built(template(tmp_path)) == ["recipe", "/opt/x", "/opt/y"]
    assert ActionsBaseMgmt is ActionsBaseTmpl is ActionsBase


def test_a_template_brings_its_own_build_with_names_replaced(tmp_path: Path) -> None:
    text = ACTIONS.format("/opt/$(service.name)/$(nproc)")
    assert built(template(tmp_path, actions_mgmt=text)) == ["/opt/redis/$(nproc)"]


def test_a_build_may_be_in_either_file_and_derive_from_the_old_names(tmp_path: Path) -> None:
    tmpl = "class Actions(ActionsBaseTmpl):\n    def build(self, s): s.upload2AYSfs('/tmpl')\n"
    mgmt = "class Actions(ActionsBaseMgmt):\n    def start(self, s): pass\n"
    assert built(template(tmp_path, "1", actions_tmpl=tmpl)) == ["/tmpl"]
    assert built(template(tmp_path, "2", actions_tmpl=tmpl, actions_mgmt=mgmt)) == ["/tmpl"]
    own = ACTIONS.format("/mgmt")
    assert built(template(tmp_path, "3", actions_tmpl=tmpl, actions_mgmt=own)) == ["/mgmt"]


def test_two_templates_do_not_share_a_module(tmp_path: Path) -> None:
    first = template(tmp_path, "1", actions_mgmt=ACTIONS.format("/1"))
    second = template(tmp_path, "2", actions_mgmt=ACTIONS.format("/2"))
    loaded = first.actions(), second.actions()
    assert type(loaded[0]).__module__ != type(loaded[1]).__module__
    assert built(first) == ["/1"]


def test_dataclasses_work_in_actions(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass X:\n    a: int\nclass Actions(ActionsBase): pass\n"
    )
    assert built(template(tmp_path, actions_mgmt=text))[0] == "recipe"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class Actions(ActionsBase:\n    pass\n", r":1: does not compile: "),
        ("import sys\n\nsys.exit(3)\n", r":3: SystemExit: 3"),
        ("def f():\n    1/0\n\nf()\n", r":2: ZeroDivisionError: division by zero"),
        ("import not_there_at_all\n", r":1: ModuleNotFoundError: No module"),
        ("x = 1\n", r": has no `class Actions\(ActionsBase\)`"),
        ("class Actions: pass\n", r": has no `class Actions\(ActionsBase\)`"),
        (
            "class Actions(ActionsBase):\n    def __init__(self): raise ValueError\n",
            r":2: ValueError$",
        ),
        ("x = 'a\0b'\n", r"actions_mgmt\.py"),
    ],
)
def test_actions_that_do_not_load_are_one_line_with_their_place(
    tmp_path: Path, text: str, reason: str
) -> None:
    made = template(tmp_path, actions_mgmt=text)
    with pytest.raises(BadRecipe, match=rf"^{tmp_path}/acme/redis/actions_mgmt\.py") as caught:
        made.actions()
    assert re.search(reason, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_none_is_refused_when_it_is_read(tmp_path: Path) -> None:
    made = template(tmp_path, recipe="nonsense\n")
    with pytest.raises(BadHrd, match=r"service\.hrd:1:1: "):
        _ = made.hrd
    assert names(tmp_path) == ["acme__redis"]


# --- what comes with the project ---------------------------------------------------------

ROOT = Path(__file__).parents[2]
LIST = "from aysfs.build.template import *; print(*[t.name for t in Templates([shipped()]).list()])"


def test_shipped_templates_are_found_and_good() -> None:
    assert shipped().resolve() == ROOT / "build"
    found = Templates([shipped()]).list()
    assert "jumpscale__base" in [str(one.name) for one in found]
    assert [finding for one in found for finding in one.check()] == []
    for one in found:
        assert Hrd.parse(one.hrd.dump()) == one.hrd


def test_a_wheel_ships_every_template(tmp_path: Path) -> None:
    source, wheel, place = tmp_path / "source", tmp_path / "wheel", tmp_path / "place"
    source.mkdir()
    parts = ("aysfs", "build", "pyproject.toml", "README.md", "LICENSE")
    subprocess.run(["cp", "-a", *(ROOT / part for part in parts), source], check=True)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    make = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheel, source)
    subprocess.run([*pip, *make], check=True, capture_output=True)
    (made,) = wheel.iterdir()
    subprocess.run([sys.executable, "-m", "zipfile", "-e", made, place], check=True)
    packed = {path.relative_to(place / "aysfs/templates") for path in place.rglob("templates/**/*")}
    ours = {path.relative_to(ROOT / "build") for path in (ROOT / "build").rglob("*")}
    assert {one for one in ours if "__pycache__" not in one.parts} == packed
    assert not (source / "build" / "lib").exists()
    found = subprocess.run(
        [sys.executable, "-c", LIST],
        env={**os.environ, "PYTHONPATH": str(place)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "jumpscale__base" in found.stdout.split()
