"""Mounts that fetch ahead: what comes before anybody asks, and that nobody is hurt by it."""

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.names import parse_name
from aysfs.pack.index import PackIndex
from aysfs.profile import Read, of_runs
from aysfs.store.profile import profile_note, write_profile
from tests.packing import many, publish
from tests.servers import Nginx
from tests.t4_mount.conftest import Site, ended, every_engine
from tests.t4_mount.overlay_site import until

pytestmark = every_engine

FILES = many(60)
START, REST = FILES[:20], FILES[20:]


@pytest.fixture
def web(site: Site, tmp_path: Path) -> Iterator[Nginx]:
    """A service of sixty files in a store behind a web server: no packs yet."""
    tree = tmp_path / "tree"
    for number, data in enumerate(FILES):
        path = tree / f"d{number // 10}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    site.push(tree)
    with Nginx(tmp_path / "nginx", site.root / "store") as nginx:
        yield nginx


def packs(site: Site, list_sha256: str | None = None) -> PackIndex:
    name = parse_name("test")
    parts = [START, REST[:20], REST[20:]]
    publishing = partial(publish, site.store, name, parts, has_start=True, list_sha256=list_sha256)
    return trio.run(publishing)


def path_of(site: Site, data: bytes) -> Path:
    number = FILES.index(data)
    return site.point / f"d{number // 10}" / f"f{number}"


def ahead(site: Site) -> dict[str, str]:
    answer = site.ask()["ahead"]
    assert isinstance(answer, list)
    return {one["what"].partition(": ")[2] or one["what"]: one["state"] for one in answer}


def is_fetched(site: Site, *whats: str) -> None:
    until(lambda: [ahead(site).get(what) for what in whats] == ["done"] * len(whats))


def gets(web: Nginx) -> list[str]:
    """The paths of blobs that were asked for, whole or in part."""
    lines = [line.split('"')[1].split()[1] for line in web.requests()]
    return [line.rpartition("/")[2] for line in lines if "/md/" not in line]


def test_the_start_pack_is_there_before_anybody_asks(site: Site, web: Nginx) -> None:
    index = packs(site)
    site.mount(store=(web.url,))
    is_fetched(site, "start pack")
    before = len(gets(web))
    for data in START:
        assert path_of(site, data).read_bytes() == data
    assert len(gets(web)) == before
    # The rest is in packs of a few neighbours each.
    for data in REST:
        assert path_of(site, data).read_bytes() == data
    assert set(gets(web)[before:]) == {one.digest.hex() for one in index.packs[1:]}
    site.umount()


def test_all_of_it_comes_by_itself(site: Site, web: Nginx) -> None:
    packs(site)
    site.mount(store=(web.url,), prefetch="all")
    is_fetched(site, "start pack", "all of it", "what is in no pack")
    web.stop()
    for data in FILES:
        assert path_of(site, data).read_bytes() == data
    site.umount()


def test_all_of_it_comes_without_packs_too(site: Site, web: Nginx) -> None:
    site.mount(store=(web.url,), prefetch="all")
    is_fetched(site, "what is in no pack")
    web.stop()
    for data in FILES:
        assert path_of(site, data).read_bytes() == data
    site.umount()


def test_nothing_is_fetched_ahead_when_none_is_asked_for(site: Site, web: Nginx) -> None:
    packs(site)
    site.mount(store=(web.url,), prefetch="none")
    assert path_of(site, FILES[3]).read_bytes() == FILES[3]
    assert ahead(site) == {}
    assert len(gets(web)) == 1
    site.umount()


def test_packs_of_another_list_are_not_used(site: Site, web: Nginx) -> None:
    index = packs(site, list_sha256="0" * 64)
    site.mount(store=(web.url,))
    until(lambda: "its packs are of another list" in site.logs())
    for data in FILES:
        assert path_of(site, data).read_bytes() == data
    later = {one.digest.hex() for one in index.packs[1:]}
    assert not later & set(gets(web))
    site.umount()


def test_a_reload_goes_on_with_the_newer_packs(site: Site, web: Nginx, tmp_path: Path) -> None:
    packs(site)
    site.mount(store=(web.url,))
    is_fetched(site, "start pack")
    new = os.urandom(5000)
    (tmp_path / "tree" / "new").write_bytes(new)
    site.push(tmp_path / "tree")
    trio.run(partial(publish, site.store, parse_name("test"), [[new], REST], has_start=True))
    assert site.ask("reload")["changed"]
    is_fetched(site, "start pack")
    before = len(gets(web))
    assert (site.point / "new").read_bytes() == new
    assert len(gets(web)) == before
    site.umount()


def test_status_says_who_waits_for_what(site: Site, web: Nginx) -> None:
    site.mount(store=(web.url,))
    web.pause()
    reader = subprocess.Popen(["cat", path_of(site, FILES[3])], stdout=subprocess.DEVNULL)
    with ended(reader):
        until(lambda: site.ask()["in_flight"])
        flights = site.ask()["in_flight"]
        assert isinstance(flights, list)
        [flight] = flights
        assert (flight["waiting"], flight["who"]) == (1, [reader.pid])
        assert flight["why"].endswith("d0/f3")
        assert flight["waited"] > 0
        web.resume()
        assert reader.wait(60) == 0
    site.umount()


def test_a_server_without_ranges_gives_whole_packs_ahead_and_blobs_on_demand(
    site: Site, web: Nginx
) -> None:
    index = packs(site)
    web.stop()
    web.config = web.config.replace("listen", "max_ranges 0; listen", 1)
    web.start()
    site.mount(store=(web.url,))
    is_fetched(site, "start pack")
    for data in FILES:
        assert path_of(site, data).read_bytes() == data
    site.umount()
    whole = [line for line in web.requests() if '" 200 ' in line and "/md/" not in line]
    names = [line.split('"')[1].split()[1].rpartition("/")[2] for line in whole]
    assert index.packs[0].digest.hex() in names
    assert {digests.of(one).hex() for one in REST} <= set(names)
    assert not {digests.of(one).hex() for one in START} & set(names)


def test_a_profile_counts_without_packs_too(site: Site, web: Nginx) -> None:
    nobodys = Read(digests.of(b"in no list"), 10, 0)
    reads = [nobodys, *(Read(digests.of(one), len(one) + 1, 1) for one in START)]  # of old sizes
    trio.run(write_profile, site.store, parse_name("test"), of_runs([reads]))
    site.mount(store=(web.url,))
    is_fetched(site, "profile")
    assert sorted(gets(web)) == sorted(digests.of(one).hex() for one in START)
    web.stop()
    for data in START:
        assert path_of(site, data).read_bytes() == data
    site.umount()


def test_a_damaged_profile_hurts_nobody(site: Site, web: Nginx) -> None:
    trio.run(site.store.write_note, profile_note(parse_name("test")), b"#profile 1\nnonsense\n")
    site.mount(store=(web.url,))
    until(lambda: "its profile is not used" in site.logs())
    assert path_of(site, FILES[3]).read_bytes() == FILES[3]
    site.umount()


def test_damaged_packs_hurt_nobody(site: Site, web: Nginx) -> None:
    index = packs(site)
    for pack in index.packs:
        blob = site.blob(pack.digest.hex())
        data = blob.read_bytes()
        blob.chmod(0o600)
        blob.write_bytes(data[:-3000] + bytes(3000))
    site.expected.append("is not used: ")
    site.mount(store=(web.url,), prefetch="all")
    for data in FILES:
        assert path_of(site, data).read_bytes() == data
    site.umount()


@pytest.mark.parametrize("prefetch", ["profile", "all"])
def test_an_unmount_in_the_middle_leaves_nothing(site: Site, web: Nginx, prefetch: str) -> None:
    packs(site)
    site.mount(store=(web.url,), prefetch=prefetch, prefetch_rate=10_000)
    assert "fetching" in ahead(site).values()
    site.umount()


def test_a_cache_that_is_smaller_than_the_profile(site: Site, web: Nginx) -> None:
    packs(site)
    size = 10 * 4096
    site.mount(store=(web.url,), prefetch="all", cache_size=size, keep_free=0)
    until(lambda: "the cache is full" in ahead(site).values())
    for data in FILES:
        assert path_of(site, data).read_bytes() == data
    assert int(str(site.ask()["cache_used"])) <= size
    site.umount()
