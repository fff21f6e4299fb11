"""A far side that costs little: nginx answers presigned URLs from a template and takes PUTs into memory.

Debian's nginx-light has the module for WebDAV PUT, which is also enough of S3 for rclone. No signature is
checked and no digest answered: what is measured is the sender.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from tests.processes import free_port

_CONFIGURATION = """
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log;
daemon off;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port}{tls};
        {certificate}
        location = /upload/ {{
            default_type application/json;
            return 200 '{{"url": "{scheme}://127.0.0.1:{port}/sink/$request_id", "key": "sink/$request_id"}}';
        }}
        location /sink/ {{ root {home}; dav_methods PUT; create_full_put_path on; }}
        location / {{ return 404; }}
    }}
}}
"""


@contextmanager
def certificates(directory: Path) -> Iterator[tuple[Path, Path]]:
    """A private authority: a key with its certificate for this machine, and the bundle to trust it by."""
    authority = trustme.CA()
    pair, bundle = directory / "server.pem", directory / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pair)
    authority.cert_pem.write_to_path(bundle)
    yield pair, bundle


@contextmanager
def nginx(certificate: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Its URL, and the directory where it keeps what is sent. TLS with a file of key and certificates."""
    home = Path(tempfile.mkdtemp(prefix="nginx-", dir="/dev/shm"))
    home.chmod(0o755)
    (home / "sink").mkdir()
    port = free_port()
    pair = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    (home / "nginx.conf").write_text(
        _CONFIGURATION.format(
            home=home,
            port=port,
            user="user root;",
            tls=" ssl" if certificate else "",
            certificate=pair if certificate else "",
            scheme="https" if certificate else "http",
        )
    )
    process = subprocess.Popen(["nginx", "-c", str(home / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}", home / "sink"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)
