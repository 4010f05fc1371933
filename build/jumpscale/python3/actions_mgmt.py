from aysfs.build.actions import ActionsBase

TREE = "/opt/python3"

COPY = f"""
set -e
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p {TREE}/bin {TREE}/lib
cp -a /usr/bin/python$version {TREE}/bin/
ln -s python$version {TREE}/bin/python3
cp -a /usr/lib/python$version /usr/lib/python3 {TREE}/lib/
rm -f {TREE}/lib/python$version/sitecustomize.py
find {TREE} -name __pycache__ -prune -exec rm -rf {{}} +
"""

BINARIES = f"find {TREE} -type f '(' -name '*.so' -o -path '*/bin/python*' ')'"

RPATH = f"""
set -e
for one in $({BINARIES}) {TREE}/lib/lib*.so*; do
    from=$(dirname "$one")
    patchelf --set-rpath "\\$ORIGIN/$(realpath --relative-to="$from" {TREE}/lib)" "$one"
done
"""


class Actions(ActionsBase):
    """Copies Debian's Python into a tree of its own, and lets it find its libraries there."""

    def build(self, service):
        packages = service.hrd.get_list("python.packages")
        service.install(["patchelf", "python3", *(f"python3-{name}" for name in packages)])
        service.execute(COPY)
        service.copyLibs(service.output(BINARIES).split(), f"{TREE}/lib")
        service.execute(RPATH)
        service.upload2AYSfs(TREE)
