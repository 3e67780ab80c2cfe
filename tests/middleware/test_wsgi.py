"""The WSGI application of the ``web`` role: the caller's address and the bounds hold there too."""

import io

import pytest

from openhands_site.serving.addresses import ClientAddressOfEnviron
from openhands_site.serving.bodies import BodyLimitOfEnviron
from openhands_site.wsgi import application


def seen(peer, **headers):
    found = {}
    ClientAddressOfEnviron(lambda environ, _: found.update(environ))(
        {"REMOTE_ADDR": peer} | headers, None
    )
    return found["REMOTE_ADDR"], found.get("HTTP_X_FORWARDED_FOR")


def test_a_trusted_proxy_tells_the_address_and_nobody_else_does(settings):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    forwarded = "203.0.113.9, 192.0.2.7, 10.0.0.2"

    assert seen("10.0.0.1", HTTP_X_FORWARDED_FOR=forwarded) == ("192.0.2.7", forwarded)
    assert seen("198.51.100.1", HTTP_X_FORWARDED_FOR=forwarded) == ("198.51.100.1", None)

    settings.TRUSTED_PROXIES = []
    assert seen("10.0.0.1", HTTP_X_FORWARDED_FOR=forwarded) == ("10.0.0.1", forwarded)


@pytest.mark.parametrize(
    ("length", "status"), [("10", None), ("", None), ("11", "413"), ("-1", "413"), ("x", "413")]
)
def test_a_stated_length_beyond_the_limit_is_refused(settings, length, status):
    settings.BODY_MAX_BYTES = 10
    answered = []
    BodyLimitOfEnviron(lambda *_: [])(
        {"PATH_INFO": "/api/v1/x", "CONTENT_LENGTH": length},
        lambda line, headers: answered.append(line[:3]),
    )

    assert answered == ([status] if status else [])


@pytest.mark.django_db
def test_the_application_answers(settings):
    settings.DATABASE_KEEP_SECONDS = 0
    answered = []
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/alive", "SERVER_NAME": "testserver", "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http",
    }  # fmt: skip

    response = application(environ, lambda line, headers: answered.append(line))
    response.close()

    assert answered == ["200 OK"]
