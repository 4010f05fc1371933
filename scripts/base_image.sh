#!/bin/sh
# Make sure that Docker has a Debian 12 image of this name: base_image.sh NAME. One that is there
# is kept, a public one is pulled; where it cannot be, a minimal Debian is made with debootstrap
# from the mirror that this host's own apt uses. Asks nothing. Takes half a minute, once.
set -eu

IMAGE=$1
RELEASE=bookworm
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'image: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

present() { docker image inspect "$IMAGE" >/dev/null 2>&1; }

exec 9>"${TMPDIR:-/tmp}/aysfs-image-$(id -u).lock"
flock 9 # two at once take turns
! present || exit 0

case $IMAGE in
aysfs-test/*) ;;
*) ! timeout 300 docker pull -q "$IMAGE" >/dev/null 2>&1 || exit 0 ;;
esac

say "$IMAGE is not here and cannot be pulled: making it with debootstrap"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 '/debian/$' || true)
root=$(mktemp -d "${TMPDIR:-/tmp}/aysfs-image-XXXXXX")
trap 'as_root rm -rf "$root"' EXIT
log=$root.log
# shellcheck disable=SC2086 # no mirror is no argument
as_root env DEBIAN_FRONTEND=noninteractive \
    debootstrap --variant=minbase "$RELEASE" "$root" $mirror >"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    say "debootstrap failed, see $log"
    exit 1
}
rm -f "$log"
as_root tar -C "$root" --numeric-owner --exclude='./var/cache/apt/*' -c . |
    docker import --change 'CMD ["/bin/sh"]' - "$IMAGE" >/dev/null
present
