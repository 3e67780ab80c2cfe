"""The WSGI application of the ``web`` role: the client's address and the limit for bodies."""

import io

import pytest

from openhands_site.serving.addresses import ClientAddressOfEnviron
from openhands_site.serving.bodies import BodyLimitOfEnviron


def pass_through(peer, **headers):
    """Return the client address and the forwarding header that the application receives."""
    received = {}
    ClientAddressOfEnviron(lambda environ, _: received.update(environ))(
        {"REMOTE_ADDR": peer} | headers, None
    )
    return received["REMOTE_ADDR"], received.get("HTTP_X_FORWARDED_FOR")


def test_client_address_is_read_from_the_header_of_a_trusted_proxy_only(settings):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    forwarded = "203.0.113.9, 192.0.2.7, 10.0.0.2"

    assert pass_through("10.0.0.1", HTTP_X_FORWARDED_FOR=forwarded) == ("192.0.2.7", forwarded)
    assert pass_through("198.51.100.1", HTTP_X_FORWARDED_FOR=forwarded) == ("198.51.100.1", None)

    settings.TRUSTED_PROXIES = []
    assert pass_through("10.0.0.1", HTTP_X_FORWARDED_FOR=forwarded) == ("10.0.0.1", forwarded)


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.7:51234", "203.0.113.7"),
        ("6.6.6.6, [2001:db8::7]:443, 10.0.0.2:1", "2001:db8::7"),
        ("6.6.6.6, unknown", "10.0.0.1"),
    ],
)
def test_client_address_is_read_in_all_forms(settings, forwarded, address):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]

    assert pass_through("10.0.0.1", HTTP_X_FORWARDED_FOR=forwarded)[0] == address


@pytest.mark.parametrize(
    ("length", "status"), [("10", None), ("", None), ("11", "413"), ("-1", "413"), ("x", "413")]
)
def test_too_large_or_malformed_content_length_is_rejected(settings, length, status):
    settings.BODY_MAX_BYTES = 10
    statuses = []
    BodyLimitOfEnviron(lambda *_: [])(
        {"PATH_INFO": "/api/v1/x", "CONTENT_LENGTH": length},
        lambda line, headers: statuses.append(line[:3]),
    )

    assert statuses == ([status] if status else [])


@pytest.mark.django_db
def test_application_responds_to_a_probe(settings, wsgi_application):
    settings.DATABASE_KEEP_SECONDS = 0
    statuses = []
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/alive", "SERVER_NAME": "testserver", "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http",
    }  # fmt: skip

    response = wsgi_application(environ, lambda line, headers: statuses.append(line))
    response.close()

    assert statuses == ["200 OK"]
