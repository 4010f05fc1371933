#!/bin/sh
# Make .venv with the project and its development tools in it; install Debian packages that are
# missing. Asks nothing, does nothing when all is done. Environment: PYTHON (default python3).
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
PYTHON=${PYTHON:-python3}
stamp=.venv/.ready

if command -v flock >/dev/null && [ -z "${AYSFS_SETUP_LOCKED:-}" ]; then
    # Two makes at once take turns; the lock is on the directory itself and leaves no file.
    AYSFS_SETUP_LOCKED=1 exec flock "$root" "$0" "$@"
fi

# Any of these changing means setting up again; the place counts because scripts name it.
fingerprint() {
    printf '%s\n' "$root"
    cksum pyproject.toml scripts/setup.sh
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

say() { printf 'setup: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@"
    else
        say "need root for: $*"
        say "run as root, or install the packages first"
        return 1
    fi
}

has_package() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_packages() {
    missing=
    for package in "$@"; do
        has_package "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q >&2
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends $missing >&2
}

packages="attr ca-certificates erofs-utils fuse3 gcc libc6-dev libcap2-bin libfuse3-dev mount openssh-client pkg-config util-linux"
# What builds and their tests run: Docker, a registry, a build server on this host.
packages="$packages debootstrap docker-registry docker.io git iptables openssh-server procps"
# The servers that stores are read from in tests and benchmarks, and the peer that is measured.
packages="$packages curl nginx-light"
# The browser that the page of the store server is tried in.
packages="$packages chromium"
# Debian's own Python comes without pip, venv and headers; another build has its own.
case $("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
    /usr/bin/*) packages="$packages python3-dev python3-venv" ;;
esac

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086 # a list of words
    install_packages $packages
else
    say "not a Debian: expecting what these packages hold to be there: $packages"
fi

say "making .venv with $("$PYTHON" -V)"
"$PYTHON" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' >&2
# The S3 server of the tests, whose many dependencies are nobody else's.
"$PYTHON" -m venv .venv/swift
.venv/swift/bin/python -m pip install --quiet --disable-pip-version-check 'swift==2.38.3' >&2
fingerprint >"$stamp"
say "done"
