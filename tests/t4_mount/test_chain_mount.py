"""A mount over several stores: one may be wrong, gone or back, and no reader notices."""

import os
import shutil
from pathlib import Path

from tests.t4_mount.conftest import Site, every_engine

pytestmark = every_engine


def test_a_mount_outlives_its_first_store(site: Site, tree: Path) -> None:
    site.push(tree)
    replica = site.root / "replica"
    shutil.copytree(site.root / "store", replica)
    wrong = site.blob("0" * 32).parents[2]
    for blob in [path for path in wrong.rglob("*") if len(path.name) == 32]:
        if blob.stat().st_size == 10240:  # the blob of `data`
            blob.chmod(0o600)
            blob.write_bytes(bytes(10240))
    site.mount(store=(str(site.root / "store"), str(replica)))
    site.expected.append("sent wrong bytes: ")
    assert (site.point / "data").read_bytes() == (tree / "data").read_bytes()
    assert "sent wrong bytes" in site.logs()
    os.rename(site.root / "store", site.root / "away")
    site.expected.append("is left alone for ")
    assert (site.point / "big").read_bytes() == (tree / "big").read_bytes()
    resting = site.ask()["resting"]
    assert isinstance(resting, list)
    assert [one["store"] for one in resting] == [str(site.root / "store")]
    os.rename(site.root / "away", site.root / "store")
    site.umount()
