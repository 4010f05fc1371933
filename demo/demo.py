#!/usr/bin/env python3
"""``make demo``: build a service in a container, mount it and run it; then do so with a large one.

First Redis, compiled in a Docker container, verified in another one, published, mounted and
talked to. Then Python itself: the interpreter that runs this file, its standard library and
well-known packages, pushed, mounted with an empty cache and run. Everything the demo makes is
below ``.demo/`` and goes away at the end, the mount of an interrupted run included; only the
Python tree and the image are kept, so that the next run starts sooner. ``--clean`` removes the
tree too.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".demo"
TREE, STORE, CACHE, MOUNT = WORK / "tree", WORK / "store", WORK / "cache", WORK / "mnt"
RUNTIME, LOGS = WORK / "run", WORK / "log"
BUILDS, SERVICES = WORK / "builds", WORK / "services"
READY = WORK / "tree.ready"
IMAGE = "debian:12"  # what the template of Redis builds in
BIN = Path(sys.executable).parent

NAME = "demo__python"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = ("babel", "botocore", "django", "networkx", "numpy", "pandas", "sqlalchemy", "sympy")

# Runs inside the mount; fails unless everything it uses comes from there.
INSIDE = """
import json, os, sys
import django, numpy, sqlalchemy
from django.utils import timezone
from numpy import linalg

where = sys.argv[1]
used = {
    "interpreter": os.readlink("/proc/self/exe"),
    "prefix": sys.prefix,
    "json": json.__file__,
    "django": django.__file__,
    "numpy": numpy.__file__,
    "sqlalchemy": sqlalchemy.__file__,
}
strays = {what: path for what, path in used.items() if not (path + "/").startswith(where + "/")}
if strays:
    sys.exit(f"not from the mount: {strays}")
answer = linalg.solve([[2.0, 1.0], [1.0, 3.0]], [5.0, 10.0]).tolist()
print(json.dumps({
    "versions": {
        "Python": sys.version.split()[0],
        "Django": django.__version__,
        "SQLAlchemy": sqlalchemy.__version__,
        "numpy": numpy.__version__,
    },
    "solved": [round(number, 6) for number in answer],
    "modules": len(sys.modules),
    "used": used,
}))
"""


class Census(NamedTuple):
    """How much there is below a directory."""

    entries: int
    files: int
    size: int


def say(words: str) -> None:
    print(words, flush=True)


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and print how long it took."""
    start = time.monotonic()
    say(f"==> {title}")
    yield
    say(f"    {time.monotonic() - start:.2f} s")


# --- the tree ----------------------------------------------------------------------------


def copy_interpreter(tree: Path) -> None:
    """The executable, its shared library where the build has one, and the standard library."""
    (tree / "bin").mkdir(parents=True)
    executable = Path(sys.base_prefix, "bin", VERSION).resolve()
    shutil.copy2(executable, tree / "bin" / VERSION)
    (tree / "bin/python3").symlink_to(VERSION)
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    shutil.copytree(
        stdlib,
        tree / "lib" / VERSION,
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "dist-packages", "sitecustomize.py"),
    )
    for library in Path(sysconfig.get_config_var("LIBDIR") or "/nowhere").glob("libpython3*.so*"):
        shutil.copy2(library, tree / "lib" / library.name, follow_symlinks=False)


def run_python(tree: Path, *arguments: str) -> str:
    """Run the tree's own Python, with nothing of the calling environment; its stdout."""
    environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(tree / "lib")}
    command = [str(tree / "bin/python3"), "-B", "-I", *arguments]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300
    )
    return done.stdout


def install_packages(tree: Path) -> None:
    """Packages from the index that pip is configured for, where this Python looks for them."""
    target = run_python(tree, "-c", "import site; print(site.getsitepackages()[-1])").strip()
    if not Path(target).is_relative_to(tree):
        raise SystemExit(f"demo: {tree}/bin/python3 looks for packages in {target}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", target, *PACKAGES], check=True)


def make_tree() -> None:
    """Build the tree, or keep the complete one of an earlier run."""
    fingerprint = f"{sys.version}\n{' '.join(PACKAGES)}\n"
    if READY.exists() and READY.read_text() == fingerprint:
        say("    kept from an earlier run")
        return
    READY.unlink(missing_ok=True)
    shutil.rmtree(TREE, ignore_errors=True)
    copy_interpreter(TREE)
    install_packages(TREE)
    READY.write_text(fingerprint)


def census(directory: Path) -> Census:
    entries = files = size = 0
    for where, folders, names in os.walk(directory):
        entries += len(folders) + len(names)
        for name in names:
            info = os.lstat(os.path.join(where, name))
            files += 1
            size += info.st_size
    return Census(entries, files, size)


# --- the service -------------------------------------------------------------------------


def aysfs(*arguments: str | Path, quiet: bool = False) -> str:
    """Run a command of the project against the demo's store and cache; its stdout.

    A quiet one shows what it says on the way only when it fails.
    """
    environment = {
        **os.environ,
        "AYSFS_CONFIG": os.devnull,
        "AYSFS_STORE": str(STORE),
        "AYSFS_CACHE": str(CACHE),
        "AYSFS_RUNTIME": str(RUNTIME),
        "AYSFS_LOGS": str(LOGS),
        "AYSFS_BUILDS": str(BUILDS),
        "AYSFS_SERVICES": str(SERVICES),
    }
    command = [str(BIN / "aysfs"), *map(str, arguments)]
    say(f"    $ aysfs {' '.join(command[1:])}")
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        say((done.stderr or "").rstrip())
        raise SystemExit(f"demo: aysfs {arguments[0]} ended with {done.returncode}")
    return done.stdout


def is_mounted() -> bool:
    """Whether something is mounted there, dead or alive, without touching it."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    escaped = re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", str(MOUNT))
    return escaped in points


def take_away_mount() -> None:
    """Remove a mount that an interrupted run left, whatever state its daemon is in."""
    for command in (["umount", "-l"], ["fusermount3", "-u", "-z"]):
        if not is_mounted():
            return
        subprocess.run([*command, str(MOUNT)], capture_output=True, check=False)


def clean(*, everything: bool) -> None:
    """Remove what a run made; the tree, which takes longest, only when asked."""
    take_away_mount()
    if is_mounted():
        raise SystemExit(f"demo: {MOUNT} cannot be unmounted")
    for directory in [WORK] if everything else [MOUNT, STORE, CACHE, RUNTIME, LOGS, BUILDS]:
        shutil.rmtree(directory, ignore_errors=True)


def cached() -> Census:
    """Blobs and bytes in the cache, counted on disk: what was fetched, whoever asks."""
    objects = CACHE / "objects"
    return census(objects) if objects.exists() else Census(0, 0, 0)


def show_fetched(whole: Census) -> None:
    """What running it took, against all there is."""
    got = cached()
    say(
        f"    fetched {got.files:,} of {whole.files:,} files ({got.files / whole.files:.1%}), "
        f"{megabytes(got.size)} of {megabytes(whole.size)} ({got.size / whole.size:.1%})"
    )


def run_inside() -> None:
    """Run the mounted Python and show that everything came from the mount."""
    told = json.loads(run_python(MOUNT, "-c", INSIDE, str(MOUNT)))
    say("    " + ", ".join(f"{what} {version}" for what, version in told["versions"].items()))
    for what, path in told["used"].items():
        say(f"    {what:<12}{path.replace(str(MOUNT), '<mount>')}")
    say(f"    {told['modules']} modules loaded, numpy solved for {told['solved']}")


def talk_to_redis() -> None:
    """Start the mounted server on a socket of its own, and use it through the mounted client."""
    place = WORK / "redis"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    socket = place / "socket"
    server = subprocess.Popen(
        [MOUNT / "bin/redis-server", "--port", "0", "--unixsocket", socket, "--dir", place],
        stdout=subprocess.DEVNULL,
    )
    try:
        while not socket.exists():
            if server.poll() is not None:
                raise SystemExit(f"demo: redis-server ended with {server.returncode}")
            time.sleep(0.02)
        for words in (["ping"], ["set", "built", "in a container"], ["get", "built"]):
            command = [str(MOUNT / "bin/redis-cli"), "-s", str(socket), *words]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
            say(f"    redis> {' '.join(words)}\n    {done.stdout.strip()}")
    finally:
        server.terminate()
        server.wait(10)
        shutil.rmtree(place, ignore_errors=True)


def build_redis() -> None:
    """A service from its recipe to an answer."""
    with step(f"an image to build in: {IMAGE}"):
        subprocess.run([ROOT / "scripts/base_image.sh", IMAGE], check=True, timeout=600)
    with step("build Redis in a container, verify it in another one, publish it"):
        say(aysfs("build", "redis", quiet=True).rstrip())
    with step("build it again: nothing changed"):
        say(aysfs("build", "redis", quiet=True).rstrip())
    with step("mount it on another path, with what the build cached removed"):
        shutil.rmtree(CACHE)
        MOUNT.mkdir()
        aysfs("mount", "redis", MOUNT)
    with step("talk to it"):
        talk_to_redis()
        got, whole = cached(), census(MOUNT)
        say(f"    fetched {megabytes(got.size)} of {megabytes(whole.size)}")
    with step("unmount"):
        aysfs("umount", MOUNT)
        MOUNT.rmdir()
        shutil.rmtree(CACHE)


def demonstrate() -> None:
    build_redis()
    with step(f"a service to publish: {VERSION} with {', '.join(PACKAGES)}"):
        make_tree()
        whole = census(TREE)
        say(f"    {whole.entries:,} entries, {whole.files:,} files, {megabytes(whole.size)}")
    with step("push it into a store"):
        aysfs("push", TREE, "--name", NAME, "--base", MOUNT)
    with step("push it again: nothing changed"):
        aysfs("push", TREE, "--name", NAME, "--base", MOUNT)
    with step("mount it, with an empty cache"):
        MOUNT.mkdir()
        aysfs("mount", NAME, MOUNT)
    with step("run it from the mount, fetching what it touches"):
        run_inside()
    show_fetched(whole)
    with step("run it again, from the cache"):
        run_inside()
    with step("what the mount says of itself"):
        say(aysfs("status").rstrip())
    with step("unmount"):
        aysfs("umount", MOUNT)
        if is_mounted():
            raise SystemExit(f"demo: {MOUNT} is still mounted")


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish, mount and run a real service.")
    parser.add_argument("--clean", action="store_true", help="remove all that the demo made")
    if parser.parse_args().clean:
        clean(everything=True)
        return 0
    WORK.mkdir(exist_ok=True)
    (WORK / ".gitignore").write_text("*\n")
    clean(everything=False)
    try:
        demonstrate()
    finally:
        clean(everything=False)
    say("demo: done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
