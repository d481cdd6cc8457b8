"""What stands behind every proxy: one nginx that answers under many addresses, and a
certificate.
"""

import os
import subprocess
import time
from pathlib import Path

from lab import client
from lab.process import Child

SMALL_BYTES = 1024
BIG_BYTES = 1 << 20


def make_certificate(folder: Path) -> None:
    """key.pem, cert.pem, and both.pem for HAProxy."""
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            folder / "key.pem",
            "-out",
            folder / "cert.pem",
            "-days",
            "30",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    both = (folder / "cert.pem").read_text() + (folder / "key.pem").read_text()
    (folder / "both.pem").write_text(both)


def configuration(folder: Path, addresses: list[str], process: str) -> str:
    listens = "\n  ".join(f"listen {address} backlog=4096;" for address in addresses)
    return f"""
{process}
pid {folder}/backend.pid; error_log {folder}/backend.log error; daemon off;
events {{ worker_connections 16384; }}
http {{ access_log off; client_max_body_size 64m; keepalive_requests 100000000;
 keepalive_timeout 600s;
 server {{
  {listens}
  location / {{ default_type text/plain; return 200 "{"x" * SMALL_BYTES}"; }}
  location /health {{ return 200 "ok"; }}
  location /big {{ root {folder}; }} }} }}
"""


def start_backend(
    folder: Path, addresses: list[str], cpus: str, process: str = "worker_processes 1;"
) -> Child:
    """`process`: the directives on nginx's own processes. With "master_process off;" it is a
    single one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    if not (folder / "big").exists():
        (folder / "big").write_bytes(os.urandom(BIG_BYTES))
    (folder / "backend.conf").write_text(configuration(folder, addresses, process))
    return Child(["nginx", "-c", f"{folder}/backend.conf"], cpus, log=folder / "backend.out")


def wait_until_open(address: str, child: Child, seconds: float = 10.0) -> bool:
    """Whether somebody accepts at the address before the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and child.is_running():
        if client.accepts(address):
            return True
        time.sleep(0.05)
    return False
