"""Tree images in the command line: published, looked after, and mounted from who is trusted."""

import json
import os

from tests.t5_cli.conftest import Host

NAME = "jumpscale__test"
PUSH = ("push", "tree", "--name", "test", "--base", "/opt/test")


def notes(host: Host) -> set[str]:
    return {path.name for path in (host.root / "store/dedupe/md").glob("*.image")}


def gc(host: Host) -> int:
    for blob in host.blobs():
        os.utime(blob, (0, 0))
    report = json.loads(host.ok("store", "gc", "--delete", "--settle", "0", "--json"))
    return int(report["blobs"]["files"])


def test_an_image_in_the_life_of_a_list(service: Host) -> None:
    before = json.loads(service.ok(*PUSH, "--json"))
    assert (before["image_bytes"], notes(service)) == (0, set())
    said = service.ok(*PUSH, "--image", "--tag", "1")
    assert "; its image is " in said
    assert notes(service) == {f"{NAME}.image", f"{NAME}@1.image"}
    report = json.loads(service.ok(*PUSH, "--image", "--json"))
    assert (report["image_bytes"] > 4096, report["uploaded_blobs"]) == (True, 0)

    info = json.loads(service.ok("store", "info", "--json"))
    assert (info["images"], info["images_size"]) == (2, 2 * report["image_bytes"])
    assert "images       of 2 lists, " in service.ok("store", "info")
    rows = json.loads(service.ok("store", "ls", "--json"))["lists"]
    assert [row["image"] for row in rows] == [report["image_bytes"]] * 2
    assert gc(service) == 0

    image = json.loads((service.root / f"store/dedupe/md/{NAME}.image").read_text())
    md5 = image["index"]["md5"]
    blob = service.root / f"store/dedupe/{md5[0]}/{md5[1]}/{md5}"
    blob.rename(service.root / "kept")
    done = service.run("store", "check")
    assert (done.code, f"{NAME}.image: {md5} is missing" in done.out) == (4, True)
    (service.root / "kept").rename(blob)
    service.ok("store", "check", "--deep")

    far = service.root / "far"
    service.ok("store", "init", far)
    service.ok("store", "copy", "test", "--to", far)
    assert (far / f"dedupe/md/{NAME}.image").read_text() == json.dumps(
        image, indent=1, sort_keys=True
    ) + "\n"

    service.ok("store", "untag", "test@1")
    assert notes(service) == {f"{NAME}.image"}
    service.ok("store", "rm", "test")
    assert notes(service) == set()
    assert gc(service) > 2


def test_root_mounts_an_image_where_its_store_is_trusted(service: Host) -> None:
    service.ok(*PUSH, "--image")
    point = service.root / "mnt"
    point.mkdir()
    store = str(service.root / "store")
    for trusted, expected in (("/elsewhere", "own"), (f"/elsewhere,{store}", "trusted")):
        service.ok("mount", "test", point, "--engine", "overlay", AYSFS_TRUST_IMAGES=trusted)
        assert (point / "data").read_bytes() == (service.root / "tree/data").read_bytes()
        service.ok("umount", point)
        folders = [one.name for one in (service.root / "cache/images").iterdir() if one.is_dir()]
        assert {([*name.split("-"), "own"])[3] for name in folders} == {expected}
        service.ok("cache", "clear")
    service.ok("mount", "test", point, "--engine", "overlay", "--trust-images", store)
    service.ok("umount", point)
    assert list((service.root / "cache/images").glob("*-trusted-*"))
    line = service.refused(11, "mount", "test", point, "--trust-images", "")
    assert line == "a store needs an address"
