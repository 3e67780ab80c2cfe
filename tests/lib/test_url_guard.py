"""Addresses that user-supplied URLs may not reach, and the clients that keep to it."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lib import http, url_guard

PRIVATE = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "240.0.0.1",
    "192.0.2.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[::7f00:1]",
    "[2002:7f00:1::]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::1]",
    "[fd00::1]",
    "[fec0::1]",
    "[2001::1]",
    "[2001:db8::1]",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "printer.local",
    "metadata.google.internal",
]
NEVER = [
    "0.0.0.0",
    "0",
    "[::]",
    "169.254.169.254",
    "2852039166",
    "[::ffff:169.254.169.254]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "224.0.0.1",
    "[ff02::1]",
    "[64:ff9b::a9fe:a9fe]",
]


class TestCheckUrl:
    @pytest.mark.parametrize("host", PRIVATE + NEVER)
    def test_refuses_what_is_not_public(self, host):
        for url in (f"http://{host}/v1", f"https://{host}:8443/v1"):
            with pytest.raises(url_guard.UnsafeUrl):
                url_guard.check_url(url, allow_private=False)

    @pytest.mark.parametrize("host", PRIVATE)
    def test_private_ones_by_leave_of_the_operator(self, host):
        url_guard.check_url(f"http://{host}/v1", allow_private=True)

    @pytest.mark.parametrize("host", NEVER)
    def test_some_never(self, host):
        with pytest.raises(url_guard.UnsafeUrl):
            url_guard.check_url(f"http://{host}/v1", allow_private=True)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "http://",
            "http:///v1",
            "http://user@example.com",
            "http://user:pw@example.com",
            "http://example.com:0",
            "http://example.com:99999",
            "http://example.com\\@127.0.0.1",
            "http://exa mple.com",
            "http://example.com/\r\nX: y",
            "http://ex\u00e4mple.com",
            "http://[::1",
        ],
    )
    def test_refuses_odd_addresses(self, url):
        with pytest.raises(url_guard.UnsafeUrl):
            url_guard.check_url(url, allow_private=True)

    @pytest.mark.parametrize(
        "url", ["https://api.example.com/v1", "http://8.8.8.8:8000", "https://[2606:4700::1111]/v1"]
    )
    def test_takes_public_ones(self, url):
        url_guard.check_url(url, allow_private=False)


class TestCheckedAddresses:
    def test_one_private_address_refuses_the_name(self):
        with pytest.raises(url_guard.UnsafeUrl):
            url_guard.checked_addresses(
                "a.example", 80, resolver=lambda *_: ["8.8.8.8", "10.0.0.1"], allow_private=False
            )

    def test_keeps_the_resolvers_order(self):
        found = url_guard.checked_addresses(
            "a.example", 80, resolver=lambda *_: ["8.8.4.4", "8.8.8.8"], allow_private=False
        )
        assert found == ["8.8.4.4", "8.8.8.8"]

    def test_a_name_without_address(self):
        with pytest.raises(OSError, match="no address"):
            url_guard.checked_addresses("a.example", 80, resolver=lambda *_: [])


class _Here(BaseHTTPRequestHandler):
    """Tells which host was asked for; /away redirects to the test's secret."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))
        status, body = (302, b"") if self.path == "/away" else (200, self.headers["Host"].encode())
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/secret")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def here() -> Iterator[ThreadingHTTPServer]:
    """A server on the loopback address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Here) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Rebinding:
    """A resolver whose first answer is harmless and whose later ones are not."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0)


def fetch(kind: str, url: str, resolver: Rebinding) -> httpx2.Response:
    """GET by the client for threads or for asyncio."""
    if kind == "sync":
        with http.client(seconds=5, resolver=resolver) as client:
            return client.get(url)

    async def get() -> httpx2.Response:
        async with http.async_client(seconds=5, resolver=resolver) as client:
            return await client.get(url)

    return asyncio.run(get())


@pytest.mark.parametrize("kind", ["sync", "async"])
class TestClients:
    def test_connect_to_the_address_that_was_checked(self, kind, here):
        resolver = Rebinding(["127.0.0.1"], ["10.99.99.99"])
        port = here.server_address[1]
        response = fetch(kind, f"http://model.example:{port}/v1", resolver)
        assert response.text == f"model.example:{port}"
        assert resolver.asked == ["model.example"]

    def test_refuse_a_name_that_turned_private(self, kind, here, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        resolver = Rebinding(["127.0.0.1"])
        with pytest.raises(url_guard.UnsafeUrl):
            fetch(kind, f"http://model.example:{here.server_address[1]}/", resolver)
        assert not here.seen

    def test_refuse_literal_addresses_without_a_lookup(self, kind, here, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        for host in ("127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost"):
            with pytest.raises(url_guard.UnsafeUrl):
                fetch(kind, f"http://{host}:{here.server_address[1]}/", Rebinding())
        assert not here.seen

    def test_follow_no_redirect(self, kind, here):
        response = fetch(
            kind, f"http://model.example:{here.server_address[1]}/away", Rebinding(["127.0.0.1"])
        )
        assert response.status_code == 302
        assert [path for path, _ in here.seen] == ["/away"]

    def test_try_the_next_address(self, kind, here):
        with socket.socket(socket.AF_INET) as taken:  # bound, not listening: refuses at once
            taken.bind(("127.0.0.2", 0))
            resolver = Rebinding(["127.0.0.2", "127.0.0.1"])
            response = fetch(kind, f"http://model.example:{here.server_address[1]}/", resolver)
        assert response.status_code == 200

    def test_read_no_proxy_from_the_environment(self, kind, here, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
        url = f"http://model.example:{here.server_address[1]}/"
        assert fetch(kind, url, Rebinding(["127.0.0.1"])).status_code == 200

    def test_a_name_that_does_not_exist_is_a_connection_error(self, kind):
        def nowhere(host: str, port: int) -> list[str]:
            raise socket.gaierror(-2, "unknown")

        with pytest.raises(httpx2.ConnectError):
            fetch(kind, "http://nowhere.example/", nowhere)

    def test_check_the_certificate_against_the_name(self, kind, here, tmp_path, monkeypatch):
        authority = _use_tls(here, tmp_path, name="model.example")
        monkeypatch.setattr(http, "_tls", lambda: ssl.create_default_context(cafile=authority))
        port = here.server_address[1]
        good = fetch(kind, f"https://model.example:{port}/", Rebinding(["127.0.0.1"]))
        assert good.text == f"model.example:{port}"
        with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate|hostname"):
            fetch(kind, f"https://other.example:{port}/", Rebinding(["127.0.0.1"]))


def _use_tls(server: ThreadingHTTPServer, folder: Path, *, name: str) -> str:
    """Let a server speak TLS with a certificate of its own for a name; the file to trust it by."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    return str(pem)
