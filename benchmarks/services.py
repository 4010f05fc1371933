"""Real services for cold starts: a large installed Python, and Redis with its libraries."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import host

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PIP = (sys.executable, "-m", "pip", "install", "-q")
PACKAGES = ("numpy", "pandas", "django", "sqlalchemy", "matplotlib", "sympy", "jedi", "botocore")
"""What is imported, and others that make it about 28,000 files and 530 MB."""
LEFT_OUT = ("site-packages", "dist-packages", "sitecustomize.py", "test", "config-*")
IMPORTS = "import numpy, pandas, django, sqlalchemy"
REDIS = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1")  # packages of Debian
_PATIENCE = 300.0


def make_python(root: Path) -> None:
    """An interpreter with its library and packages, which needs nothing of the host's Python."""
    (root / "bin").mkdir(parents=True)
    shutil.copy2(Path(sys.base_prefix, "bin", VERSION).resolve(), root / "bin" / VERSION)
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    ignore = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(library, root / "lib" / VERSION, symlinks=True, ignore=ignore)
    for shared in Path(sysconfig.get_config_var("LIBDIR")).glob("libpython3*.so*"):
        shutil.copy2(shared, root / "lib" / shared.name, follow_symlinks=False)
    words = python(root, "import site; print(site.getsitepackages()[-1])")
    target = Path(host.run(words).strip())
    if not target.is_relative_to(root):
        raise host.FailedError(f"{root} looks for packages in {target}")
    host.run([*PIP, "--target", target, *PACKAGES])


def python(root: Path, program: str) -> list[str | Path]:
    """The command that runs a program in such a tree, wherever it lies."""
    return ["env", f"LD_LIBRARY_PATH={root}/lib", root / "bin" / VERSION, "-I", "-B", "-c", program]


def make_redis(root: Path) -> None:
    """Debian's packages, unpacked, with every library that they need and the loader."""
    downloads = root.with_name("redis.packages")
    host.remove(downloads)
    downloads.mkdir()
    host.run(["sh", "-c", 'cd "$1" && shift && apt-get download "$@"', "sh", downloads, *REDIS])
    for package in downloads.glob("*.deb"):
        host.run(["dpkg-deb", "-x", package, root])
    host.remove(downloads)
    found = [path for path in root.glob("usr/lib/*/lib*.so*") if path.is_file()]
    (root / "lib64").mkdir(exist_ok=True)
    for shared in found:
        shutil.copy2(shared, root / "lib64" / shared.name)
    ldd = host.run(["env", f"LD_LIBRARY_PATH={root}/lib64", "ldd", root / "usr/bin/redis-server"])
    for path in re.findall(r"(/\S+) \(0x", ldd):
        if not Path(path).is_relative_to(root):
            shutil.copy2(path, root / "lib64" / Path(path).name)


@contextlib.contextmanager
def redis(root: Path) -> Iterator[float]:
    """A server that answers, started from such a tree; the seconds until its PONG."""
    address = host.WORK / "redis.sock"
    host.remove(address)
    loader = [root / "lib64/ld-linux-x86-64.so.2", "--library-path", root / "lib64"]
    options = ["--port", "0", "--unixsocket", address, "--save", "", "--dir", host.WORK]
    start = time.monotonic()
    server = subprocess.Popen(
        [str(word) for word in [*loader, root / "usr/bin/redis-server", *options]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not answers(address):
            if server.poll() is not None or time.monotonic() > start + _PATIENCE:
                raise host.FailedError("redis-server does not answer")
            time.sleep(0.002)
        yield time.monotonic() - start
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def answers(address: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as one:
        one.connect(str(address))
        one.sendall(b"PING\r\n")
        return one.recv(64) == b"+PONG\r\n"
    return False


if __name__ == "__main__":  # the start of Redis as a command that ends
    with redis(Path(sys.argv[1])):
        pass
