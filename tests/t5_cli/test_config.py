"""Settings: option before environment before the user's file before the system's."""

import os
import re
from pathlib import Path

import pytest

from aysfs.cli import config
from aysfs.cli.config import load_settings, parse_size
from aysfs.errors import BadConfig
from aysfs.limits import DEADLINE, Limits
from aysfs.names import ServiceName


class Files:
    """A system's and a user's configuration file, written by the test."""

    def __init__(self, root: Path) -> None:
        self.system = root / "etc" / "config.toml"
        self.user = root / "home" / "aysfs" / "config.toml"
        for path in (self.system, self.user):
            path.parent.mkdir(parents=True)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    for name in [name for name in os.environ if name.startswith("AYSFS_")]:
        monkeypatch.delenv(name)
    found = Files(tmp_path)
    monkeypatch.setattr(config, "SYSTEM_FILE", found.system)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(found.user.parents[1]))
    return found


def test_each_source_goes_before_the_one_below_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = load_settings().store
    files.system.write_text("store = '/system'\n")
    assert (load_settings().store, default != ("/system",)) == (("/system",), True)
    files.user.write_text("store = '/user'\n")
    assert load_settings().store == ("/user",)
    monkeypatch.setenv("AYSFS_STORE", "/environment")
    assert load_settings().store == ("/environment",)
    assert load_settings(store=["/option"]).store == ("/option",)


def test_the_cache_follows_the_same_order(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.system.write_text("cache = '/system'\n")
    files.user.write_text("cache = '/user'\n")
    monkeypatch.setenv("AYSFS_CACHE", "/environment")
    assert load_settings(cache="/option").cache == Path("/option")
    assert load_settings().cache == Path("/environment")
    monkeypatch.delenv("AYSFS_CACHE")
    assert load_settings().cache == Path("/user")
    files.user.unlink()
    assert load_settings().cache == Path("/system")


def test_sources_are_joined_setting_by_setting(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.system.write_text("namespace = 'ours'\ncache_size = '5G'\n")
    files.user.write_text("default_domain = 'acme'\ncache_size = 7\n")
    monkeypatch.setenv("AYSFS_DEADLINE", "1.5")
    settings = load_settings(store=["/s"])
    assert (settings.namespace, settings.default_domain) == ("ours", "acme")
    assert (settings.store, settings.cache_size, settings.deadline) == (("/s",), 7, 1.5)
    assert settings.keep_free == Limits().keep_free
    assert settings.limits == Limits(7, Limits().keep_free)


def test_every_setting_has_its_environment_variable(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "store": "/a",
        "cache": "/b",
        "runtime": "/c",
        "logs": "/d",
        "namespace": "e",
        "default_domain": "f",
        "cache_size": "1k",
        "keep_free": "2",
        "deadline": "3",
        "services": "/g",
        "builds": "/h",
        "templates": "/i:/j",
        "trust_images": "/k,/l",
        "packs": "yes",
        "prefetch": "all",
        "prefetch_rate": "20M",
    }
    assert values.keys() == config.KEYS
    for name, value in values.items():
        monkeypatch.setenv(f"AYSFS_{name.upper()}", value)
    settings = load_settings()
    assert (settings.store, settings.namespace, settings.default_domain) == (("/a",), "e", "f")
    assert settings.trust_images == ("/k", "/l")
    assert settings.packs
    assert list(map(str, (settings.cache, settings.runtime, settings.logs))) == ["/b", "/c", "/d"]
    assert (settings.cache_size, settings.keep_free, settings.deadline) == (1024, 2, 3.0)
    assert (settings.services, settings.builds) == (Path("/g"), Path("/h"))
    assert settings.templates == (Path("/i"), Path("/j"))
    assert (settings.prefetch, settings.prefetch_rate) == ("all", 20 << 20)


def test_an_unknown_prefetch_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AYSFS_PREFETCH", "everything")
    with pytest.raises(BadConfig, match="must be one of none, profile, all, not 'everything'"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("false", False), ("'1'", True), ("'no'", False), ("1", True)],
)
def test_packs_are_made_or_not(files: Files, text: str, expected: bool) -> None:
    assert not load_settings().packs
    files.user.write_text(f"packs = {text}\n")
    assert load_settings().packs is expected


@pytest.mark.parametrize("text", ["'perhaps'", "2", "[]"])
def test_packs_that_are_neither_are_refused(files: Files, text: str) -> None:
    files.user.write_text(f"packs = {text}\n")
    with pytest.raises(BadConfig, match=re.escape(f"{files.user}: `packs` must be true or false")):
        load_settings()


def test_an_empty_variable_is_none(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.user.write_text("namespace = 'mine'\n")
    monkeypatch.setenv("AYSFS_NAMESPACE", "")
    assert load_settings().namespace == "mine"


def test_a_chosen_file_stands_for_the_users(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files.system.write_text("namespace = 'system'\ndeadline = 5\n")
    files.user.write_text("namespace = 'user'\n")
    (tmp_path / "chosen.toml").write_text("namespace = 'chosen'\n")
    monkeypatch.setenv("AYSFS_CONFIG", str(tmp_path / "chosen.toml"))
    assert (load_settings().namespace, load_settings().deadline) == ("chosen", 5.0)
    monkeypatch.setenv("AYSFS_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(BadConfig, match=r"gone\.toml, which is not there$"):
        load_settings()


def test_nothing_needs_configuring(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    root = load_settings()
    assert root.store == ("/var/lib/aysfs/store",)
    assert list(map(str, (root.cache, root.runtime, root.logs))) == [
        "/var/cache/aysfs",
        "/run/aysfs",
        "/var/log/aysfs",
    ]
    assert (root.namespace, root.default_domain, root.deadline) == ("dedupe", "jumpscale", DEADLINE)
    assert root.limits == Limits()


def test_an_ordinary_users_folders_are_his_own(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name, folder in (("DATA", "data"), ("CACHE", "cache"), ("STATE", "state")):
        monkeypatch.setenv(f"XDG_{name}_HOME", f"/home/u/{folder}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    settings = load_settings()
    assert settings.store == ("/home/u/data/aysfs/store",)
    assert list(map(str, (settings.cache, settings.runtime, settings.logs))) == [
        "/home/u/cache/aysfs",
        "/run/user/1000/aysfs",
        "/home/u/state/aysfs/log",
    ]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert load_settings().runtime == Path("/tmp/aysfs-1000")


def test_paths_are_absolute_and_addresses_stay_as_they_are(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/u")
    settings = load_settings(store=["a/../s"], cache="~/c")
    assert (settings.store, settings.cache) == ((f"{tmp_path}/s",), Path("/home/u/c"))
    assert load_settings(store=["file:///srv/s"]).store == ("file:///srv/s",)


@pytest.mark.parametrize("domain", ["", "A", "a__b", "a/b", 5])
def test_a_default_domain_is_a_domain(files: Files, domain: object) -> None:
    files.user.write_text(f"default_domain = {domain!r}\n")
    with pytest.raises(BadConfig, match=re.escape(f"{files.user}: `default_domain` must be a ")):
        load_settings()


def test_what_is_wrong_in_a_lower_source_is_told_although_a_higher_one_wins(files: Files) -> None:
    files.system.write_text("nmaespace = 'x'\n")
    with pytest.raises(BadConfig, match=re.escape(f"{files.system}: no such setting `nmaespace`")):
        load_settings(store=["/s"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (4096, 4096),
        ("0", 0),
        ("512", 512),
        ("1k", 1 << 10),
        ("1K", 1 << 10),
        ("2M", 2 << 20),
        ("20G", 20 << 30),
        ("20GB", 20 << 30),
        ("512 MiB", 512 << 20),
        (" 1T ", 1 << 40),
        ("7B", 7),
    ],
)
def test_a_size(text: object, expected: int) -> None:
    assert parse_size(text, "x") == expected


@pytest.mark.parametrize("text", [-1, True, 1.5, None, "", "G", "-1", "1.5G", "1X", "1 0", "1ii"])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(
        BadConfig, match=re.escape(f"here must be a size such as 20G, not {text!r}")
    ):
        parse_size(text, "here")


def test_an_argument_is_a_file_or_a_service(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.ref("redis") == ServiceName("jumpscale", "redis")
    assert settings.ref("a__b@c") == ServiceName("a", "b", "c")
    assert settings.ref("redis.flist") == tmp_path / "redis.flist"
    assert settings.ref("./redis") == tmp_path / "redis"
    assert settings.ref("/srv/redis") == Path("/srv/redis")


def test_several_stores_are_named_in_their_order(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    files.user.write_text("store = ['https://a/dedupe', '/b', 'c']\n")
    assert load_settings().store == ("https://a/dedupe", "/b", f"{tmp_path}/c")
    monkeypatch.setenv("AYSFS_STORE", "https://u:p@a/x,/b,/b")
    assert load_settings().store == ("https://u:p@a/x", "/b")
    assert load_settings(store=["/with,comma", "/d"]).store == ("/with,comma", "/d")
    assert "u:p" not in repr(load_settings())


@pytest.mark.parametrize("value", ["[]", "['']", "''", "3", "[3]", "['/a', '']"])
def test_what_names_no_store_is_refused(files: Files, value: str) -> None:
    files.user.write_text(f"store = {value}\n")
    with pytest.raises(BadConfig, match="store"):
        load_settings()


@pytest.mark.parametrize("name", ["store", "cache", "namespace"])
def test_a_nul_is_part_of_no_address_and_no_path(files: Files, name: str) -> None:
    files.user.write_text(f'{name} = "a\\u0000b"\n')
    with pytest.raises(BadConfig, match=f"config.toml: `{name}` "):
        load_settings()


def test_nobody_is_trusted_for_images_unless_it_is_said(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().trust_images == ()
    files.system.write_text("trust_images = ['https://a/b', 'relative']\n")
    assert load_settings().trust_images == ("https://a/b", os.path.abspath("relative"))
    files.user.write_text("trust_images = []\n")
    assert load_settings().trust_images == ()
    monkeypatch.setenv("AYSFS_TRUST_IMAGES", "/a,ssh://b/c")
    assert load_settings().trust_images == ("/a", "ssh://b/c")
    for wrong in ("true", "7", "['']", "[7]"):
        monkeypatch.delenv("AYSFS_TRUST_IMAGES", raising=False)
        files.user.write_text(f"trust_images = {wrong}\n")
        with pytest.raises(BadConfig, match="trust_images"):
            load_settings()
