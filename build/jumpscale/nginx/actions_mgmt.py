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
    --http-uwsgi-temp-path=/tmp/nginx-uwsgi --with-ld-opt='-Wl,-rpath,$ORIGIN/../lib'
make -j"$(nproc)" install
strip /opt/nginx/sbin/nginx
"""


class Actions(ActionsBase):
    """Compiles nginx for /opt/nginx; its libraries are found beside it, wherever it is mounted."""

    def build(self, service):
        service.install("dpkg-dev gcc libc6-dev libpcre2-dev libssl-dev make zlib1g-dev")
        service.execute(BUILD)
        service.copyLibs("/opt/nginx/sbin/nginx")
        service.execute("rm -rf /opt/nginx/logs")
        service.copyFiles("nginx-check", "/opt/nginx/sbin/nginx-check")
        service.upload2AYSfs("/opt/nginx")
