#!/bin/sh
# Make sure that Docker answers on this host: start dockerd when none runs, and wait for it. Asks
# nothing, does nothing when all is done. What it started stays, for whoever needs it next.
set -eu

SOCKET=/var/run/docker.sock
WAIT=60 # seconds

say() { printf 'docker: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

answers() { timeout 10 docker -H "unix://$SOCKET" version >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@"
    else
        fail "need root to start dockerd: run as root, or start Docker first"
    fi
}

# dockerd is in /usr/sbin, which the PATH of an ordinary user lacks.
PATH=$PATH:/usr/sbin:/sbin
! answers || exit 0
command -v docker >/dev/null && command -v dockerd >/dev/null ||
    fail "not installed (Debian: docker.io)"

if ! pgrep -x dockerd >/dev/null; then
    log=$(mktemp "${TMPDIR:-/tmp}/aysfs-dockerd-XXXXXX.log")
    say "starting dockerd, which says the rest in $log"
    # The parentheses keep our own output out of it: who reads that waits for the end of all
    # that has it open.
    (as_root setsid dockerd) >"$log" 2>&1 </dev/null &
fi

end=$(($(date +%s) + WAIT))
until answers; do
    if [ -S "$SOCKET" ] && [ ! -w "$SOCKET" ]; then
        fail "runs, but this user may not use $SOCKET: be root, or join the group docker"
    fi
    [ "$(date +%s)" -lt "$end" ] ||
        fail "no answer on $SOCKET within $WAIT seconds${log:+: see $log}"
    sleep 0.2
done
