from aysfs.build.actions import ActionsBase

BUILD = """
set -e
sed 's/^deb /deb-src /' /etc/apt/sources.list >/etc/apt/sources.list.d/source.list
apt-get -q update
mkdir -p /usr/src/redis
cd /usr/src/redis
apt-get -q source --download-only redis
tar --strip-components=1 -xf redis_*.orig.tar.gz
make -j"$(nproc)" MALLOC=libc PREFIX=/opt/redis install
strip /opt/redis/bin/redis-server /opt/redis/bin/redis-cli /opt/redis/bin/redis-benchmark
"""


class Actions(ActionsBase):
    """Compiles Redis for /opt/redis; it needs nothing but the C library."""

    def build(self, service):
        service.install("dpkg-dev gcc libc6-dev make")
        service.execute(BUILD)
        service.copyFiles("redis-check", "/opt/redis/bin/redis-check")
        service.upload2AYSfs("/opt/redis")
