"""Certificates for tests, made by openssl as an operator makes them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificates:
    """An authority, a server's certificate and a client's, as PEM files in a directory; and another authority."""

    def __init__(self, directory: Path, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        """Make them; the server's is for `addresses`."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.other_ca = self._authority("ca"), self._authority("other")
        names = ",".join(f"IP:{address}" for address in addresses)
        self.server, self.server_key = self.signed("server", names)
        self.client, self.client_key = self.signed("client", "DNS:client")

    def signed(self, name: str, names: str, authority: str = "ca") -> tuple[Path, Path]:
        """Return a certificate and its key; `names` as in subjectAltName."""
        (self._directory / f"{name}.ext").write_text(f"subjectAltName={names}\n")
        self._openssl("req", *_NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
            *("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial"),
        )
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    def _authority(self, name: str) -> Path:
        self._openssl(
            "req",
            "-x509",
            *_NEW_KEY,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
            "-days",
            "30",
            "-subj",
            f"/CN={name}",
        )
        return self._directory / f"{name}.pem"

    def _openssl(self, *argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=self._directory, check=True, capture_output=True, timeout=60)
