from aysfs.build.actions import ActionsBase

BUILD = """
set -e
sed 's/^deb /deb-src /' /etc/apt/sources.list >/etc/apt/sources.list.d/source.list
apt-get -q update
mkdir -p /usr/src/nginx
cd /usr/src/nginx
apt-get -q source --download-only nginx
tar --strip-components=1 -xf nginx_*.orig.tar.gz
./configure --prefix=/opt/nginx --with-threads --with-http_v2_module --with-http_ssl_module \\
    --http-client-body-temp-path=/tmp/nginx-body --http-proxy-temp-path=/tmp/nginx-proxy \\
    --http-fastcgi-temp-path=/tmp/nginx-fastcgi --http-scgi-temp-path=/tmp/nginx-scgi \\
    --http-uwsgi-temp-path=/tmp/nginx-uwsgi
make -j"$(nproc)" install
strip /opt/nginx/sbin/nginx
"""


# Found beside the binary, wherever the tree is mounted, and by each other.
RPATH = """
set -e
patchelf --set-rpath '$ORIGIN/../lib' /opt/nginx/sbin/nginx
for one in /opt/nginx/lib/*; do
    patchelf --set-rpath '$ORIGIN' "$one"
done
"""


class Actions(ActionsBase):
    """Compiles nginx for /opt/nginx; its libraries are found beside it, wherever it is mounted."""

    def build(self, service):
        service.install("dpkg-dev gcc libc6-dev libpcre2-dev libssl-dev make patchelf zlib1g-dev")
        service.execute(BUILD)
        service.copyLibs("/opt/nginx/sbin/nginx")
        service.execute(RPATH)
        service.execute("rm -rf /opt/nginx/logs")
        service.copyFiles("nginx-check", "/opt/nginx/sbin/nginx-check")
        service.upload2AYSfs("/opt/nginx")
