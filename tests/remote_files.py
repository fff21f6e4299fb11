"""An SFTP server over a folder, rclone's, and a home directory whose keys it accepts and which knows it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from deployments.sandbox.storage import rclone_binary
from tests.processes import await_that

_LISTENING = re.compile(r"SFTP server listening on (127\.0\.0\.1):(\d+)")


@contextmanager
def remote_files(folder: Path, home: Path) -> Iterator[str]:
    """Served until the block ends, to this process's HOME: its address, `sftp://me@127.0.0.1:PORT`."""
    ssh = home / ".ssh"
    ssh.mkdir(parents=True)
    keys = {name: paramiko.RSAKey.generate(2048) for name in ("id_rsa", "host")}
    for name, key in keys.items():
        key.write_private_key_file(str(ssh / name))
    (ssh / "authorized").write_text(f"ssh-rsa {keys['id_rsa'].get_base64()}\n")
    log = home / "sftp.log"
    arguments = ["serve", "sftp", str(folder), "--addr", "127.0.0.1:0", "--key", str(ssh / "host"), "-v"]
    arguments += ["--authorized-keys", str(ssh / "authorized"), "--read-only", "--dir-cache-time", "0"]
    with log.open("wb") as output:
        server = subprocess.Popen([rclone_binary(), *arguments], stdout=output, stderr=output)
    try:
        await_that(lambda: _LISTENING.search(log.read_text()) is not None)
        found = _LISTENING.search(log.read_text())
        assert found
        port = found[2]
        (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} ssh-rsa {keys['host'].get_base64()}\n")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("HOME", str(home))
            patched.delenv("SSH_AUTH_SOCK", raising=False)
            yield f"sftp://me@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
