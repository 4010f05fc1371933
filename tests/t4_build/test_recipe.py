"""What a service.hrd says about a build: exports, platforms, images, and every refusal."""

import re
from pathlib import Path

import pytest

from aysfs.build.hrd import Hrd
from aysfs.build.platforms import ancestors, matches
from aysfs.build.recipe import (
    BuildSpec,
    Dependency,
    GitExport,
    VerifySpec,
    WebExport,
    build_spec,
    dependencies,
    git_exports,
    unknown_keys,
    verify_spec,
    web_exports,
)
from aysfs.build.template import SYSTEM
from aysfs.errors import BadHrd

RECIPES = Path(__file__).parent / "recipes"
PARENTS = [Hrd({"service.param.base": "/opt/x"}), SYSTEM]


def recipe(name: str) -> list[GitExport]:
    return git_exports(Hrd.read(RECIPES / f"{name}.hrd", parents=PARENTS))


def export(fields: str) -> GitExport:
    (found,) = git_exports(Hrd.parse(f"\ngit.export.1 = {fields}\n", source="service.hrd"))
    return found


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.hrd")), ids=lambda path: path.stem)
def test_every_export_of_a_real_recipe_is_understood(path: Path) -> None:
    hrd = Hrd.read(path, parents=PARENTS)
    exports = git_exports(hrd)
    assert len(exports) == len(re.findall(r"^git\.export\.", path.read_text(), re.MULTILINE))
    assert all(one.dest.startswith("/") and "$(" not in one.dest for one in exports)
    assert unknown_keys(hrd) == []


def test_the_exports_of_known_recipes() -> None:
    (redis,) = recipe("redis")
    assert redis == GitExport(
        "http://git.aydo.com/binary/redis",
        "redis",
        "/opt/jumpscale8/apps/redis",
        link=True,
        platform=("ubuntu64",),
    )
    assert [one.dest for one in recipe("mariadb")] == [
        f"/opt/mariadb/{name}" for name in ("bin", "cfg", "scripts", "share")
    ]
    (kvm,) = recipe("kvm")
    assert (kvm.dest, kvm.revision) == ("/opt/jumpscale8/apps/kvm", None)
    assert [one.overwrite for one in recipe("base_python")] == [False, False, True]
    assert {one.depth for one in recipe("base_python")} == {1}
    assert [one.key for one in recipe("rabbitmq")] == [
        f"git.export.{n}" for n in (1, 3, 4, 5, 6, 7, 8)
    ]
    assert [one.source for one in recipe("odoo")][:2] == ["addons", "cli"]
    assert recipe("qless-py")[2].source == ""
    assert recipe("nodejs")[0].dest == "/opt/nodejs/"


def test_what_is_not_given_has_its_default() -> None:
    assert export("url:/srv/x, dest:/opt//x") == GitExport("/srv/x", "", "/opt/x")
    assert export("url:x, dest:/x, depth:all, branch:1.5").depth is None
    assert export("url:x, dest:/x, branch:1.5").branch == "1.5"
    assert export("url:x, dest:/x, platform:'linux64, Ubuntu'").platform == ("linux64", "ubuntu")


def test_a_password_in_a_url_moves_to_its_field_and_is_never_shown() -> None:
    found = export("url:'https://me:hunter%402@host:8/x.git', dest:/x")
    assert found.url == "https://host:8/x.git"
    assert (found.login, found.passwd) == ("me", "hunter@2")
    assert "hunter" not in repr(found)
    given = export("url:'https://me:hunter2@host/x', dest:/x, login:you, passwd:other")
    assert (given.login, given.passwd) == ("you", "other")
    assert export("url:'ssh://git@host/x', dest:/x").url == "ssh://git@host/x"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("url:x", "dest is missing"),
        ("dest:/x", "url is missing"),
        ("url:x, dest:opt/x", "dest `opt/x` must start with `/`"),
        ("url:x, dest:/opt/../etc", "dest `/opt/../etc` climbs out with `..`"),
        ("url:x, dest:$(base)/x", "dest needs `$(base)`, which nobody gives"),
        ("url:x, dest:/x, source:a/../../b", "source `a/../../b` climbs out"),
        ("url:x, dest:/x, source:$(a)", "source needs `$(a)`"),
        ("url:x, dest:/x, source:'a*b'", "source `a*b` has its `*` elsewhere"),
        ("url:x, dest:/x, source:'a*'", "source `a*` has its `*` elsewhere"),
        ("url:-upload-pack=x, dest:/x", "`-upload-pack=x` is no url"),
        ("url:'ext::sh -c x', dest:/x", "is no url"),
        ("url:x, dest:/x, branch:--exec", "branch cannot be `--exec`"),
        ("url:x, dest:/x, revision:'a b'", "revision cannot be `a b`"),
        ("url:x, dest:/x, revision:a..b", "revision cannot be `a..b`"),
        ("url:x, dest:/x, depth:0", "depth `0` is neither a number above 0 nor `all`"),
        ("url:x, dest:/x, depth:-1", "depth `-1`"),
        ("url:x, dest:/x, link:maybe", "link is neither true nor false"),
        ("text", "is no dict"),
    ],
)
def test_an_export_that_cannot_be_followed_is_refused_with_its_line(
    fields: str, reason: str
) -> None:
    with pytest.raises(BadHrd) as caught:
        export(fields)
    assert str(caught.value).startswith("service.hrd:2:1: `git.export.1` ")
    assert reason in str(caught.value)


def test_a_destination_that_climbs_out_only_through_a_name_is_refused() -> None:
    with pytest.raises(BadHrd, match=r"climbs out"):
        git_exports(Hrd.parse("base = /opt/..\ngit.export.1 = url:x, dest:$(base)/etc\n"))


def test_web_exports_are_read_and_checked() -> None:
    hrd = Hrd.parse("web.export.2 = url:http://h/d, source:f.tgz, dest:/opt/f.tgz, checkmd5:true\n")
    assert web_exports(hrd) == [WebExport("http://h/d", "f.tgz", "/opt/f.tgz", True)]
    with pytest.raises(BadHrd, match="dest `/opt/` is no file"):
        web_exports(Hrd.parse("web.export.1 = url:http://h, source:f, dest:/opt/\n"))


def test_build_verify_and_dependencies_are_typed() -> None:
    hrd = Hrd.read(RECIPES / "platform_base.hrd")
    image, repo = (
        "jumpscale/ubuntu1510_python",
        "https://github.com/Jumpscale/docker_ubuntu1510_python.git",
    )
    assert build_spec(hrd) == BuildSpec(image, repo, "dedupe")
    assert build_spec(Hrd.read(RECIPES / "platform_base_manual.hrd")) == build_spec(hrd)
    assert build_spec(Hrd()) is None
    assert verify_spec(Hrd()) is None
    hrd = Hrd.parse(
        "build = image:'debian:12', dedupe_ns:mine\n"
        "verify = cmd:'redis-cli -p 1 ping', expect:PONG\n"
        "dependencies.1 = name:base, domain:jumpscale, type:build\n"
        "dependencies.3 = name:x\n"
    )
    assert build_spec(hrd) == BuildSpec("debian:12", None, "mine")
    assert verify_spec(hrd) == VerifySpec("redis-cli -p 1 ping", "PONG")
    base = Dependency("base", "jumpscale", "main", "build")
    assert dependencies(hrd) == [base, Dependency("x")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("build = repo:x", "image is missing"),
        ("build = image:--privileged", "image cannot be `--privileged`"),
        ("build = image:x, repo:--exec=x", "is no url of a repository"),
        ("build = image:x, dedupe_ns:../y", "dedupe_ns cannot be `../y`"),
        ("verify = expect:x", "cmd is missing"),
        ("dependencies.1 = type:build", "name is missing"),
    ],
)
def test_a_build_that_says_too_little_is_refused(text: str, reason: str) -> None:
    hrd = Hrd.parse(text)
    with pytest.raises(BadHrd, match=re.escape(reason)):
        (build_spec(hrd), verify_spec(hrd), dependencies(hrd))


def test_keys_that_mean_nothing_are_named() -> None:
    hrd = Hrd.parse("git.export.1 = url:x, destt:/x\nweb.export.1 = url:x, link:True\n")
    assert unknown_keys(hrd) == [("git.export.1", "destt"), ("web.export.1", "link")]


def test_a_platform_is_all_that_its_ancestors_are() -> None:
    assert {"ubuntu64", "ubuntu", "linux64", "linux", "unix", "generic"} <= ancestors("ubuntu64")
    assert matches([], "ubuntu64")
    assert matches(["linux64"], "mint64")
    assert matches(["darwin", "ubuntu"], "ubuntu64")
    assert not matches(["ubuntu64"], "linux64")
    assert not matches(["darwin"], "ubuntu64")
    assert matches(["plan9"], "plan9")
