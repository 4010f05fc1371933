"""The figures: one function a row, each usable alone.

A row gets nothing and returns what it measured, in the unit of its target, with a note that
holds what the figure was made of. ``ROWS`` is the table, in the order they run: pushing comes
first, since the others need what it published.
"""

import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks import building, host, upkeep, web
from benchmarks.figures import Measured, Row, microseconds, ratio, same_bytes, seconds_of
from benchmarks.host import (
    ALL_PATHS,
    FILE_PATHS,
    LARGE,
    LARGE_NAME,
    LARGE_PATHS,
    MILLION,
    MOUNT,
    READERS,
    TREE,
    TREE_NAME,
    Cores,
    Walked,
)

# --- publishing --------------------------------------------------------------------------


def push_first() -> Measured:
    """Source in the page cache for both; what is written is not waited for by cp.

    Nothing is removed between the two: an ext4 without a journal looks at every inode that was
    freed in the last five minutes before it takes one, at up to 0.5 ms a new file.
    """
    host.empty_store()
    copy = host.WORK / "copy"
    host.remove(copy)
    host.walk("read", TREE, FILE_PATHS)
    host.settle()
    summing = host.timed(
        ["sh", "-c", 'cd "$1" && xargs -0 md5sum <"$2" >/dev/null', "sh", TREE, FILE_PATHS]
    )
    copying = host.timed(["cp", "-r", TREE, copy])
    host.settle()
    pushing = host.push(TREE_NAME, TREE)
    host.remove(copy)
    return ratio(pushing, summing + copying, f"md5sum {summing:.2f} + cp {copying:.2f} =")


def push_again() -> Measured:
    host.pushed(TREE_NAME, TREE)
    return Measured(host.push(TREE_NAME, TREE))


def push_served() -> Measured:
    directory, first, again = web.push_to_server()
    found = ratio(first, directory, "the directory store")
    return found._replace(note=f"{found.note}; again {again:.2f} s")


# --- building ----------------------------------------------------------------------------


def build_stream() -> Measured:
    one = building.built()
    peer_name = f"docker cp {one.copying:.2f} + md5sum {one.summing:.2f} ="
    return ratio(one.seconds, one.copying + one.summing, peer_name)


def build_again() -> Measured:
    return Measured(building.build_again())


def verify() -> Measured:
    host.pushed(TREE_NAME, TREE)
    return ratio(*building.verify_tree(), "md5sum")


def build_memory() -> Measured:
    return Measured(building.built().peak)


# --- upkeep ------------------------------------------------------------------------------


def gc_million() -> Measured:
    ran = upkeep.dry_run()
    return Measured(ran.seconds, f"{ran.cpu:.1f} s of CPU, page cache cold")


def gc_memory() -> Measured:
    return Measured(upkeep.dry_run().peak)


# --- mounting ----------------------------------------------------------------------------


def ready() -> Measured:
    """The list has no image yet: it is read and compiled."""
    return mounting(TREE_NAME, 3, host.forget_images)


def ready_again() -> Measured:
    host.pushed(TREE_NAME, TREE)
    with host.mounted(TREE_NAME):
        pass
    return mounting(TREE_NAME, 5, lambda: None)


def ready_million() -> Measured:
    return mounting(MILLION, 1, host.forget_images)


def ready_million_again() -> Measured:
    with host.mounted(MILLION):
        pass
    return mounting(MILLION, 5, lambda: None)


def mounting(service: str | Path, times: int, before: Callable[[], None]) -> Measured:
    """The median time of several mounts."""
    if service == TREE_NAME:
        host.pushed(TREE_NAME, TREE)
    taken = []
    for _ in range(times):
        before()
        with host.mounted(service) as mount:
            taken.append(mount.seconds)
    return Measured(statistics.median(taken), "median of " + seconds_of(taken))


def memory() -> Measured:
    host.pushed(TREE_NAME, TREE)
    with host.mounted(TREE_NAME) as mount:
        fresh = mount.resident()
        host.walk("lstat", MOUNT, ALL_PATHS)
        return Measured(fresh, f"after an lstat of everything {mount.resident():.0f} MiB")


def memory_million() -> Measured:
    with host.mounted(MILLION) as mount:
        return Measured(mount.resident())


# --- names and attributes ----------------------------------------------------------------


def cold_lstat() -> Measured:
    """Every placement with a mount of its own: a second walk would not be cold."""
    host.pushed(TREE_NAME, TREE)

    def measure(cores: Cores) -> Walked:
        host.drop_caches()
        with host.mounted(TREE_NAME) as mount:
            mount.pin(cores.daemon)
            return host.walk("lstat", MOUNT, ALL_PATHS, core=cores.reader)

    return by_placement(measure)


def warm_lstat() -> Measured:
    host.pushed(TREE_NAME, TREE)
    host.walk("lstat", TREE, ALL_PATHS)
    peer = host.fastest(5, lambda: host.walk("lstat", TREE, ALL_PATHS))
    with host.mounted(TREE_NAME):
        host.walk("lstat", MOUNT, ALL_PATHS)
        mine = host.fastest(5, lambda: host.walk("lstat", MOUNT, ALL_PATHS))
    return ratio(mine.seconds, peer.seconds)


# --- reading -----------------------------------------------------------------------------


def warm_open() -> Measured:
    host.pushed(TREE_NAME, TREE)
    host.cached(TREE_NAME)
    host.walk("read", TREE, FILE_PATHS)
    peer = host.fastest(3, lambda: host.walk("read", TREE, FILE_PATHS))
    with host.mounted(TREE_NAME) as mount:
        host.walk("read", MOUNT, FILE_PATHS)

        def measure(cores: Cores) -> Walked:
            mount.pin(cores.daemon)
            return host.fastest(2, lambda: host.walk("read", MOUNT, FILE_PATHS, core=cores.reader))

        return by_placement(measure, f"; ext4 {microseconds(peer):.1f} us")


def read_cached() -> Measured:
    host.pushed(TREE_NAME, TREE)
    host.cached(TREE_NAME)
    peer = read_ext4_cold()
    with host.mounted(TREE_NAME):
        host.drop_caches()
        mine = host.walk("read", MOUNT, FILE_PATHS, readers=READERS)
    same_bytes(mine, peer)
    return ratio(mine.seconds, peer.seconds)


def read_store() -> Measured:
    host.pushed(TREE_NAME, TREE)
    peer = read_ext4_cold()
    host.remove(host.CACHE)
    with host.mounted(TREE_NAME):
        host.drop_caches()
        mine = host.walk("read", MOUNT, FILE_PATHS, readers=READERS)
    same_bytes(mine, peer)
    return ratio(mine.seconds, peer.seconds)


def large_warm() -> Measured:
    host.pushed(LARGE_NAME, LARGE)
    host.cached(LARGE_NAME)
    host.walk("read", LARGE, LARGE_PATHS)
    peer = host.fastest(3, lambda: host.walk("read", LARGE, LARGE_PATHS))
    with host.mounted(LARGE_NAME):
        host.walk("read", MOUNT, LARGE_PATHS)
        mine = host.fastest(3, lambda: host.walk("read", MOUNT, LARGE_PATHS))
    same_bytes(mine, peer)
    return ratio(mine.seconds, peer.seconds)


def large_cold() -> Measured:
    host.pushed(LARGE_NAME, LARGE)
    host.cached(LARGE_NAME)

    def peer_run() -> Walked:
        host.drop_caches()
        return host.walk("read", LARGE, LARGE_PATHS)

    def my_run() -> Walked:
        host.drop_caches()
        return host.walk("read", MOUNT, LARGE_PATHS)

    peer = host.fastest(3, peer_run)
    with host.mounted(LARGE_NAME):
        mine = host.fastest(3, my_run)
    same_bytes(mine, peer)
    return ratio(mine.seconds, peer.seconds)


# --- over HTTP ---------------------------------------------------------------------------


def fetch_http() -> Measured:
    """In turns: what else runs on the machine disturbs both. The medians are compared."""
    with web.served() as url:
        wanted = web.blobs()
        mine, peer = [], []
        for _ in range(3):
            peer.append(web.curl(url, wanted))
            mine.append(web.fetch(url, TREE_NAME))
    name = f"{len(wanted)} blobs; {seconds_of(mine)}; curl --parallel {seconds_of(peer)}; medians"
    return ratio(statistics.median(mine), statistics.median(peer), name)


def read_http() -> Measured:
    seconds, peer, cpu, count = read_over_http()
    note = f"{seconds:.3f} s; ext4 {peer:.3f} s; daemon {cpu:.1f} s of CPU, {count} blobs"
    return Measured(seconds / peer, note)


def cpu_http() -> Measured:
    """Every request of a reader is in it: lookup, open, read and release."""
    _, _, cpu, count = read_over_http()
    return Measured(cpu * 1e6 / count, f"{cpu:.1f} s of CPU, {count} blobs")


def read_over_http() -> tuple[float, float, float, int]:
    """Seconds, ext4's seconds, the daemon's seconds of CPU, and blobs."""
    with web.served() as url:
        peer = read_ext4_cold()
        host.remove(host.CACHE)
        with host.mounted(TREE_NAME, "--store", url) as mount:
            host.drop_caches()
            before = web.processor_seconds(mount.pid)
            mine = host.walk("read", MOUNT, FILE_PATHS, readers=READERS)
            cpu = web.processor_seconds(mount.pid) - before
        same_bytes(mine, peer)
        return mine.seconds, peer.seconds, cpu, len(web.blobs())


def large_http() -> Measured:
    """To the last byte; the first comes then as well, since nothing is shown unverified."""
    with web.served() as url:
        mine, peer = [], []
        for _ in range(3):
            peer.append(web.curl_large(url))
            host.remove(host.CACHE)
            with host.mounted(LARGE_NAME, "--store", url):
                mine.append(host.walk("read", MOUNT, LARGE_PATHS).seconds)
    note = f"{seconds_of(mine)}; curl {seconds_of(peer)}; medians"
    return ratio(statistics.median(mine), statistics.median(peer), note)


# --- shared ------------------------------------------------------------------------------


def read_ext4_cold() -> Walked:
    """Everything by 8 readers from the ordinary tree, page cache cold."""
    host.drop_caches()
    return host.walk("read", TREE, FILE_PATHS, readers=READERS)


def by_placement(measure: Callable[[Cores], Walked], more: str = "") -> Measured:
    """Microseconds a path in every placement; the best pinned one is judged."""
    found = {cores.label: microseconds(measure(cores)) for cores in host.placements()}
    judged = min(value for label, value in found.items() if label != "unpinned")
    words = ", ".join(f"{label} {value:.1f} us" for label, value in found.items())
    return Measured(judged, words + more)


ROWS = (
    Row("push_first", "push 60k entries, first time, against md5sum + cp -r", 1.5, "x", push_first),
    Row("push_again", "push again, nothing changed", 2.0, "s", push_again),
    Row(
        "push_served",
        "push 60k entries to `store serve`, against a directory store",
        2.0,
        "x",
        push_served,
    ),
    Row(
        "build_stream",
        "build: 60k entries out of a container into a store, against docker cp + md5sum",
        1.5,
        "x",
        build_stream,
    ),
    Row("build_again", "build, nothing changed", 2.0, "s", build_again),
    Row("verify", "verify 60k entries in a container, against md5sum", 3.0, "x", verify),
    Row("build_memory", "builder memory, 60k entries", 150.0, "MiB", build_memory),
    Row("gc", "store gc --dry-run, 1M blobs and 100 lists", 60.0, "s", gc_million),
    Row("gc_memory", "memory of that gc", 300.0, "MiB", gc_memory),
    Row("ready", "list compiled and mount ready, 60k entries", 1.0, "s", ready),
    Row("ready_again", "mount ready again, 60k entries", 0.3, "s", ready_again),
    Row("ready_million", "list compiled and mount ready, 1M entries", 12.0, "s", ready_million),
    Row("ready_million_again", "mount ready again, 1M entries", 0.5, "s", ready_million_again),
    Row("memory", "daemon memory, 60k entries", 90.0, "MiB", memory),
    Row("memory_million", "daemon memory, 1M entries", 600.0, "MiB", memory_million),
    Row("cold_lstat", "cold lstat of every path", 60.0, "us", cold_lstat),
    Row("warm_lstat", "warm lstat of every path, against ext4", 1.1, "x", warm_lstat),
    Row("warm_open", "warm open+read+close a file", 85.0, "us", warm_open),
    Row(
        "read_store",
        "read everything, cache cold, directory store, 8 readers, against ext4",
        5.0,
        "x",
        read_store,
    ),
    Row(
        "read_cached",
        "read everything, blobs cached, page cache cold, 8 readers, against ext4",
        3.0,
        "x",
        read_cached,
    ),
    Row(
        "fetch_http",
        "fetch everything over HTTP, cache cold, against curl --parallel, 16 connections",
        2.0,
        "x",
        fetch_http,
    ),
    Row(
        "read_http",
        "read everything over HTTP, cache cold, 8 readers, against ext4",
        5.0,
        "x",
        read_http,
    ),
    Row(
        "cpu_http", "processor time of the daemon for a blob read over HTTP", 300.0, "us", cpu_http
    ),
    Row("large_http", "1 GiB file over HTTP, cache cold, against curl", 1.3, "x", large_http),
    Row(
        "large_warm", "1 GiB file, sequential, page cache warm, against ext4", 3.0, "x", large_warm
    ),
    Row(
        "large_cold", "1 GiB file, sequential, page cache cold, against ext4", 2.0, "x", large_cold
    ),
)
