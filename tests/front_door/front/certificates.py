"""A root, and what it issues: as public authorities do it, so that scanners find nothing to say of
certificates. By the openssl command.
"""

import base64
import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

HOST = "front.test"
DAYS = 90  # of a leaf
EXTENSIONS = f"""subjectAltName=DNS:{HOST},DNS:localhost,IP:127.0.0.1
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
basicConstraints=critical,CA:FALSE
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
authorityInfoAccess=OCSP;URI:http://ocsp.{HOST}/
"""
KEYS = {
    "ec": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    "rsa": ["rsa:2048"],
}


@dataclass(frozen=True)
class Authority:
    """`root`: what clients trust. Leaves: NAME.pem with the root behind it, NAME.key, NAME.ocsp."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    def listener_lines(self) -> str:
        """`certificates` of a listener, both kinds with their OCSP response."""
        pairs = ",".join(
            f'{{ certificate = "{self.folder}/{name}.pem", '
            f'private_key = "{self.folder}/{name}.key", ocsp = "{self.folder}/{name}.ocsp" }}'
            for name in KEYS
        )
        return f"[listeners.tls]\ncertificates = [{pairs}]\n"

    def pins(self) -> str:
        """SHA-256 of the leaves' public keys, as Chromium takes them."""
        found = []
        for name in KEYS:
            key = _openssl("pkey", "-in", f"{self.folder}/{name}.key", "-pubout", "-outform", "DER")
            found.append(base64.b64encode(hashlib.sha256(key).digest()).decode())
        return ",".join(found)


def authority(folder: Path) -> Authority:
    """RuntimeError if openssl fails."""
    folder.mkdir()
    made = Authority(folder)
    _openssl(
        *("req", "-x509", "-newkey", *KEYS["rsa"], "-nodes", "-days", "365", "-sha256"),
        *("-subj", "/CN=root of the front door", "-addext", "keyUsage=critical,keyCertSign"),
        *("-keyout", folder / "root.key", "-out", made.root),
    )
    (folder / "extensions").write_text(EXTENSIONS)
    for name in KEYS:
        _issue(made, name)
    return made


def _issue(made: Authority, name: str) -> None:
    file, issuer = made.folder / name, ("-CA", made.root, "-CAkey", made.folder / "root.key")
    _openssl(
        *("req", "-newkey", *KEYS[name], "-nodes", "-subj", f"/CN={HOST}"),
        *("-keyout", f"{file}.key", "-out", f"{file}.csr"),
    )
    leaf = _openssl(
        *("x509", "-req", "-in", f"{file}.csr", *issuer, "-days", str(DAYS), "-sha256"),
        *("-extfile", made.folder / "extensions"),
    )
    (made.folder / f"{name}.pem").write_bytes(leaf + made.root.read_bytes())
    _say_good(made, name)


def _say_good(made: Authority, name: str) -> None:
    """The authority's word that the leaf is good, for a week."""
    said = _openssl("x509", "-in", f"{made.folder}/{name}.pem", "-noout", "-serial")
    serial = said.decode().strip().removeprefix("serial=")
    (made.folder / "index").write_text(f"V\t400101000000Z\t\t{serial}\tunknown\t/CN={HOST}\n")
    own = ("-issuer", made.root, "-cert", f"{made.folder}/{name}.pem")
    _openssl("ocsp", *own, "-no_nonce", "-reqout", made.folder / "request")
    _openssl(
        *("ocsp", "-index", made.folder / "index", "-CA", made.root, "-rsigner", made.root),
        *("-rkey", made.folder / "root.key", "-reqin", made.folder / "request"),
        *("-ndays", "7", "-respout", f"{made.folder}/{name}.ocsp"),
    )


def _openssl(*arguments: str | Path) -> bytes:
    argv = ["openssl", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {argv[1]}: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stdout
