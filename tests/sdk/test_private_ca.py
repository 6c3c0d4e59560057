"""Keys and feed over https under a private CA."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.programs import free_port

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint

Soon = Callable[..., Awaitable[None]]


class PrivateCa:
    """``path`` is the file of its certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.pem"
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(**dict.fromkeys(USAGES, False) | {"key_cert_sign": True})
        certificate = self._certify(
            self._name, self._key.public_key(), (x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)
        )
        self.path.write_bytes(certificate.public_bytes(Encoding.PEM))

    def server(self) -> ssl.SSLContext:
        """For a server on 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._certify(x509.Name([]), key.public_key(), (names, True))
        file = self.path.with_suffix(".server")
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certify(
        self, whom: x509.Name, key: ec.EllipticCurvePublicKey, *extensions: tuple[x509.ExtensionType, bool]
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        ours = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(whom)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@pytest.fixture
def ca(tmp_path: Path) -> PrivateCa:
    return PrivateCa(tmp_path, "ours")


@pytest.fixture
async def authority(
    live_mint: Mint, new_authority: Callable[[Mint], Authority], ca: PrivateCa
) -> AsyncIterator[Authority]:
    """One that is reached over https only."""
    found = new_authority(live_mint)
    found._server = await asyncio.start_server(found._connected, "127.0.0.1", found._port, ssl=ca.server())
    found.url = found.url.replace("http:", "https:")
    yield found
    await found.stop()


async def test_keys_and_feed_are_trusted_by_the_named_certificates(
    authority: Authority, live_mint: Mint, ca: PrivateCa, soon: Soon
) -> None:
    async with authority.auth(ca=str(ca.path)) as auth:
        await soon(auth.ready, "it is ready")
        assert auth.verify(live_mint.fresh()).subject == "user-1"


@pytest.mark.parametrize("another", [True, False], ids=["by another CA's", "by the public ones"])
async def test_they_are_not_trusted_otherwise(
    authority: Authority, tmp_path: Path, soon: Soon, caplog: pytest.LogCaptureFixture, *, another: bool
) -> None:
    settings = {"ca": str(PrivateCa(tmp_path, "theirs").path)} if another else {}
    async with authority.auth(**settings) as auth:
        for source in ("keys", "feed"):
            sentence = f"{source} {authority.url}/{source}: [SSL: CERTIFICATE_VERIFY_FAILED]"
            await soon(lambda sentence=sentence: sentence in caplog.text, "it is refused")
        assert auth.problems() == ["keys_missing", "feed_replaying"]
        assert authority.received == []


COUNTED = """
import asyncio, logging, ssl, sys
from authix import Authix

logging.basicConfig(stream=sys.stdout)
made = []
real = ssl.create_default_context
ssl.create_default_context = lambda *args, **more: (made.append(1), real(*args, **more))[1]

class Told(logging.Handler):
    def __init__(self):
        super().__init__()
        self.names = set()
    def emit(self, record):
        self.names.add(record.name)

async def main(url):
    told = Told()
    logging.getLogger().addHandler(told)
    async with Authix(issuer=url, audience="tests"):
        async with asyncio.timeout(10):
            while not {"authix.keys", "authix.feed"} <= told.names:  # both could not connect
                await asyncio.sleep(0.01)
    print("made", len(made))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(("scheme", "times"), [("http", 0), ("https", 1)])
def test_the_public_authorities_are_read_once_and_only_for_https(scheme: str, times: int) -> None:
    run = [sys.executable, "-c", COUNTED, f"{scheme}://127.0.0.1:{free_port()}"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=30)
    assert f"made {times}" in done.stdout
