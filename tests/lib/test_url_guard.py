"""Addresses that user-supplied URLs must not reach, and the HTTP clients that enforce it."""

import asyncio
import contextlib
import io
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
from django.core.management import call_command

from accounts.models import User
from accounts.services import create_user
from lib import http, logs, url_guard
from openhands_site.doctor import security

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
    def test_host_that_is_not_public_is_unsafe(self, host):
        for url in (f"http://{host}/v1", f"https://{host}:8443/v1"):
            with pytest.raises(url_guard.UnsafeUrl):
                url_guard.check_url(url, allow_private=False)

    @pytest.mark.parametrize("host", PRIVATE)
    def test_private_host_is_allowed_if_the_operator_allows_private_hosts(self, host):
        url_guard.check_url(f"http://{host}/v1", allow_private=True)

    @pytest.mark.parametrize("host", NEVER)
    def test_some_hosts_are_unsafe_even_if_private_hosts_are_allowed(self, host):
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
    def test_malformed_url_is_unsafe(self, url):
        with pytest.raises(url_guard.UnsafeUrl):
            url_guard.check_url(url, allow_private=True)

    @pytest.mark.parametrize(
        "url", ["https://api.example.com/v1", "http://8.8.8.8:8000", "https://[2606:4700::1111]/v1"]
    )
    def test_public_host_is_allowed(self, url):
        url_guard.check_url(url, allow_private=False)


class TestCheckedAddresses:
    def test_name_with_one_private_address_is_unsafe(self):
        with pytest.raises(url_guard.UnsafeUrl):
            url_guard.checked_addresses(
                "a.example", 80, resolver=lambda *_: ["8.8.8.8", "10.0.0.1"], allow_private=False
            )

    def test_addresses_keep_the_order_of_the_resolver(self):
        addresses = url_guard.checked_addresses(
            "a.example", 80, resolver=lambda *_: ["8.8.4.4", "8.8.8.8"], allow_private=False
        )
        assert addresses == ["8.8.4.4", "8.8.8.8"]

    def test_name_without_address_raises(self):
        with pytest.raises(OSError, match="no address"):
            url_guard.checked_addresses("a.example", 80, resolver=lambda *_: [])


class _Handler(BaseHTTPRequestHandler):
    """A handler that responds with the request's Host header. ``/away`` redirects to ``/secret``."""

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
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """An HTTP server on the loopback address; ``seen`` lists the path and host of its requests."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http_server:
        http_server.seen = []
        thread = threading.Thread(target=http_server.serve_forever, args=(0.02,))
        thread.start()
        yield http_server
        http_server.shutdown()
        thread.join()


class ScriptedResolver:
    """A resolver that returns the next of its prepared answers. ``requested`` lists the names that it resolved."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.requested: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.requested.append(host)
        return self.answers.pop(0)


def fetch(kind: str, url: str, resolver: ScriptedResolver, **options) -> httpx2.Response:
    """Send a GET request with the client of one kind: ``sync`` or ``async``."""
    if kind == "sync":
        with http.client(seconds=5, resolver=resolver, **options) as client:
            return client.get(url)

    async def get() -> httpx2.Response:
        async with http.async_client(seconds=5, resolver=resolver, **options) as client:
            return await client.get(url)

    return asyncio.run(get())


@pytest.mark.parametrize("kind", ["sync", "async"])
class TestClients:
    def test_client_connects_to_the_checked_address_without_a_second_lookup(self, kind, server):
        resolver = ScriptedResolver(["127.0.0.1"], ["10.99.99.99"])
        port = server.server_address[1]
        response = fetch(kind, f"http://model.example:{port}/v1", resolver)
        assert response.text == f"model.example:{port}"
        assert resolver.requested == ["model.example"]

    def test_client_rejects_a_name_that_resolves_to_a_private_address(self, kind, server, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        resolver = ScriptedResolver(["127.0.0.1"])
        with pytest.raises(url_guard.UnsafeUrl):
            fetch(kind, f"http://model.example:{server.server_address[1]}/", resolver)
        assert not server.seen

    def test_client_rejects_private_literal_addresses_without_a_lookup(
        self, kind, server, settings
    ):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        for host in ("127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost"):
            with pytest.raises(url_guard.UnsafeUrl):
                fetch(kind, f"http://{host}:{server.server_address[1]}/", ScriptedResolver())
        assert not server.seen

    def test_client_does_not_follow_redirects(self, kind, server):
        response = fetch(
            kind,
            f"http://model.example:{server.server_address[1]}/away",
            ScriptedResolver(["127.0.0.1"]),
        )
        assert response.status_code == 302
        assert [path for path, _ in server.seen] == ["/away"]

    def test_client_tries_the_next_address_after_a_refused_connection(self, kind, server):
        with socket.socket(
            socket.AF_INET
        ) as closed:  # bound but not listening, so connections are refused
            closed.bind(("127.0.0.2", 0))
            resolver = ScriptedResolver(["127.0.0.2", "127.0.0.1"])
            response = fetch(kind, f"http://model.example:{server.server_address[1]}/", resolver)
        assert response.status_code == 200

    def test_client_ignores_proxies_of_the_environment(self, kind, server, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
        url = f"http://model.example:{server.server_address[1]}/"
        assert fetch(kind, url, ScriptedResolver(["127.0.0.1"])).status_code == 200

    def test_unknown_name_is_a_connection_error(self, kind):
        def fail_to_resolve(host: str, port: int) -> list[str]:
            raise socket.gaierror(-2, "unknown")

        with pytest.raises(httpx2.ConnectError):
            fetch(kind, "http://nowhere.example/", fail_to_resolve)

    def test_client_checks_the_certificate_against_the_name(
        self, kind, server, tmp_path, monkeypatch
    ):
        authority = _use_tls(server, tmp_path, name="model.example")
        monkeypatch.setattr(http, "_tls", lambda: ssl.create_default_context(cafile=authority))
        port = server.server_address[1]
        response = fetch(kind, f"https://model.example:{port}/", ScriptedResolver(["127.0.0.1"]))
        assert response.text == f"model.example:{port}"
        with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate|hostname"):
            fetch(kind, f"https://other.example:{port}/", ScriptedResolver(["127.0.0.1"]))


def _use_tls(server: ThreadingHTTPServer, folder: Path, *, name: str) -> str:
    """Make a server use TLS with a self-signed certificate for a name; return the path of the certificate."""
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


class TestSingleUser:
    """With ``UPSTREAM_ALLOW_PRIVATE=single-user``, a second person closes private addresses, and everybody is informed."""

    @pytest.fixture(autouse=True)
    def single_user(self, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = "single-user"

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:11434/v1", "http://localhost:11434/v1", "http://10.1.2.3/v1"]
    )
    def test_second_person_closes_private_addresses_and_the_error_says_what_to_set(
        self, alice, url
    ):
        url_guard.check_url(url)
        User.objects.create(email="robot@example.com", is_service_account=True)
        User.objects.create(email="former@example.com", is_active=False)
        url_guard.check_url(url)

        create_user(email="second@example.com")

        with pytest.raises(url_guard.UnsafeUrl) as error:
            url_guard.check_url(url)
        assert "only while one person has an account" in str(error.value)
        assert "UPSTREAM_ALLOW_PRIVATE=true in the file .env" in str(error.value)
        url_guard.check_url("https://api.example.com/v1")

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @pytest.mark.django_db(transaction=True)
    def test_client_checks_at_each_call(self, kind, server):
        address = f"http://model.example:{server.server_address[1]}/v1"
        create_user(email="first@example.com")
        assert fetch(kind, address, ScriptedResolver(["127.0.0.1"])).text

        create_user(email="second@example.com")

        with pytest.raises(url_guard.UnsafeUrl, match="UPSTREAM_ALLOW_PRIVATE=true"):
            fetch(kind, address, ScriptedResolver(["127.0.0.1"]))

    def test_operator_is_warned_in_the_log_in_doctor_and_by_the_command(
        self, alice, caplog, monkeypatch
    ):
        monkeypatch.setattr(logs, "_last_lines", {})
        assert security.private_hosts().state == "ok"
        out = io.StringIO()

        call_command("create_user", "--email", "second@example.com", stdout=out)

        finding = security.private_hosts()
        detail = finding.sentence
        assert finding.state == "warning"
        assert "add the line UPSTREAM_ALLOW_PRIVATE=true to the file .env" in detail
        assert detail in out.getvalue()
        assert [r.getMessage() for r in caplog.records if r.name == "accounts.services.people"] == [
            detail
        ]

    @pytest.mark.parametrize(("value", "allowed"), [(True, True), (False, False)])
    def test_other_values_do_not_depend_on_the_number_of_people(
        self, alice, charlie, settings, value, allowed
    ):
        settings.UPSTREAM_ALLOW_PRIVATE = value

        with contextlib.nullcontext() if allowed else pytest.raises(url_guard.UnsafeUrl):
            url_guard.check_url("http://127.0.0.1:11434/v1")
        assert url_guard.explain_single_user() == ""


class TestByPermission:
    """With ``UPSTREAM_ALLOW_PRIVATE=allowed``, callers open loopback addresses with ``LOOPBACK``, and nothing else."""

    @pytest.fixture(autouse=True)
    def by_permission(self, settings):
        settings.UPSTREAM_ALLOW_PRIVATE = "allowed"

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
    def test_loopback_url_needs_the_argument(self, host):
        url = f"http://{host}:11434/v1"

        with pytest.raises(url_guard.UnsafeUrl, match="that an administrator has allowed"):
            url_guard.check_url(url)
        url_guard.check_url(url, allow_private=url_guard.LOOPBACK)

    @pytest.mark.parametrize(
        "host",
        ["10.0.0.1", "192.168.1.1", "[fd00::1]", "169.254.169.254", "0.0.0.0", "db.internal"],
    )
    def test_other_private_url_stays_closed(self, host):
        with pytest.raises(url_guard.UnsafeUrl):
            url_guard.check_url(f"http://{host}:11434/v1", allow_private=url_guard.LOOPBACK)

    @pytest.mark.parametrize(
        ("addresses", "is_open"),
        [(["127.0.0.1"], True), (["::1"], True), (["127.0.0.1", "10.0.0.1"], False)],
    )
    def test_name_is_open_if_all_its_addresses_are_loopback(self, addresses, is_open):
        with contextlib.nullcontext() if is_open else pytest.raises(url_guard.UnsafeUrl):
            url_guard.checked_addresses(
                "localhost",
                80,
                resolver=ScriptedResolver(addresses),
                allow_private=url_guard.LOOPBACK,
            )

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_client_calls_loopback_only_with_the_argument(self, kind, server):
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"

        with pytest.raises(url_guard.UnsafeUrl):
            fetch(kind, address, ScriptedResolver([]))
        response = fetch(kind, address, ScriptedResolver([]), allow_private=url_guard.LOOPBACK)
        assert response.text

    @pytest.mark.parametrize(
        ("url", "port"),
        [
            ("http://127.0.0.1:11434/v1", 11434),
            ("http://localhost/v1", 80),
            ("https://[::1]/v1", 443),
            ("http://127.0.0.2:11434/v1", None),
            ("http://127.1:11434/v1", None),
            ("http://a.localhost:11434/v1", None),
            ("http://example.com:11434/v1", None),
            ("ftp://127.0.0.1:21", None),
            ("http://127.0.0.1:x", None),
            ("http://[::1", None),
        ],
    )
    def test_port_of_this_machine_is_known_for_three_spellings(self, url, port):
        assert url_guard.loopback_port(url) == port
