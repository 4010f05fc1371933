"""Packs in the command line: published, made of what is there, looked after, and found damaged."""

import json
import os
from pathlib import Path

import pytest

from aysfs.digest import Digest
from aysfs.pack import PackIndex
from tests.t5_cli.conftest import Host

NAME = "jumpscale__test"
PUSH = ("push", "tree", "--name", "test", "--base", "/opt/test")


def notes(host: Host) -> set[str]:
    return {path.name for path in (host.root / "store/dedupe/md").glob("*.packs")}


def note(host: Host) -> dict[str, dict[str, str]]:
    text = (host.root / f"store/dedupe/md/{NAME}.packs").read_text()
    return json.loads(text)  # type: ignore[no-any-return]  # whatever it is, the test says


def blob(host: Host, digest: str) -> Path:
    return host.root / f"store/dedupe/{digest[0]}/{digest[1]}/{digest}"


def packs(host: Host) -> list[str]:
    index = PackIndex.decode(blob(host, note(host)["index"]["md5"]).read_bytes())
    return [one.digest.hex() for one in index.packs]


def gc(host: Host) -> int:
    for path in host.blobs():
        os.utime(path, (0, 0))
    report = json.loads(host.ok("store", "gc", "--delete", "--settle", "0", "--json"))
    return int(report["blobs"]["files"])


def test_packs_in_the_life_of_a_list(service: Host) -> None:
    before = json.loads(service.ok(*PUSH, "--json"))
    assert (before["packs"], notes(service)) == (None, set())
    said = service.ok(*PUSH, "--packs", "--tag", "1").splitlines()
    assert said[1].startswith(f"{NAME}: 4 blobs (280 B) are in 1 packs (")
    assert said[1].endswith(" were new")
    assert notes(service) == {f"{NAME}.packs", f"{NAME}@1.packs"}
    report = json.loads(service.ok(*PUSH, "--json", AYSFS_PACKS="1"))["packs"]
    assert (report["packs"], report["blobs"], report["sent"]) == (1, 4, 0)
    assert json.loads(service.ok(*PUSH, "--no-packs", "--json", AYSFS_PACKS="1"))["packs"] is None
    assert notes(service) == {f"{NAME}.packs", f"{NAME}@1.packs"}  # the list is the same

    info = json.loads(service.ok("store", "info", "--json"))
    assert (info["packed"], info["packed_size"]) == (2, 2 * report["packed"])
    assert "packs        of 2 lists, " in service.ok("store", "info")
    rows = json.loads(service.ok("store", "ls", "--json"))["lists"]
    assert [row["packs"] for row in rows] == [report["packed"]] * 2
    assert gc(service) == 0
    service.ok("store", "check", "--deep")

    far = service.root / "far"
    service.ok("store", "init", far)
    service.ok("store", "copy", "test", "--to", far)
    assert json.loads((far / f"dedupe/md/{NAME}.packs").read_text()) == note(service)

    service.ok("store", "untag", "test@1")
    assert notes(service) == {f"{NAME}.packs"}
    service.ok("store", "rm", "test")
    assert notes(service) == set()
    assert gc(service) > 2


def test_a_push_says_that_packs_of_the_list_before_are_withdrawn(service: Host) -> None:
    words = f"{NAME}: its packs are of the list before; `aysfs store pack {NAME}` makes new ones\n"
    service.ok(*PUSH, "--packs")
    assert words not in service.run(*PUSH).err  # the very same list: they stay
    assert "index" in note(service)
    (service.root / "tree/new").write_text("new")
    assert words in service.run(*PUSH).err
    assert "index" not in note(service)
    (service.root / "tree/newer").write_text("newer")
    assert words not in service.run(*PUSH).err
    service.ok("store", "pack", "test")
    (service.root / "tree/newest").write_text("newest")
    assert json.loads(service.ok(*PUSH, "--json"))["withdrawn"]


def test_what_is_in_a_store_is_packed(service: Host) -> None:
    digest = Digest(bytes.fromhex("e2c865db4162bed963bfaa9ef6ac18f0"))  # of tree/data
    profile = f"#profile 1\n#runs 1\n{digest.hex()}|256|1|1\n"
    (service.root / f"store/dedupe/md/{NAME}.profile").write_text(profile)
    said = service.ok("store", "pack", "test")
    assert said.startswith(f"{NAME}: 4 blobs (280 B) are in 2 packs (")
    assert ", 1 of them in the start pack; 2 packs (" in said
    [report] = json.loads(service.ok("store", "pack", "test", "--json"))
    assert (report["name"], report["packs"], report["sent"], report["start"]) == (NAME, 2, 0, 1)
    assert "; 2 packs (" in service.ok("store", "pack", "test", "--anew")
    assert packs(service)[0] == note(service)["start"]["md5"]
    assert "other" in service.refused(4, "store", "pack", "other")
    assert "is a file" in service.refused(2, "store", "pack", "./list")


@pytest.mark.parametrize("which", ["index", "pack"])
def test_check_names_what_is_wrong_with_packs(service: Host, which: str) -> None:
    service.ok(*PUSH, "--packs")
    md5 = note(service)["index"]["md5"] if which == "index" else packs(service)[0]
    path = blob(service, md5)
    good = path.read_bytes()
    path.unlink()
    done = service.run("store", "check")
    assert (done.code, f"{NAME}.packs: {md5} is missing" in done.out) == (4, True)
    path.write_bytes(good[:-1])
    done = service.run("store", "check")
    assert (done.code, f"{NAME}.packs: {md5} is of another size" in done.out) == (6, True)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = service.run("store", "check", "--deep")
    assert (done.code, f"{NAME}.packs: {md5} is corrupt" in done.out) == (6, True)
    path.unlink()
    service.ok("store", "pack", "test")
    service.ok("store", "check", "--deep")
