"""Log lines contain no secret of a URL, and nobody can forge a line or send control characters to a terminal."""

import io
import json
import logging
import logging.config
import re
import time

import pytest
from django.conf import settings as configured
from django.test import Client
from django.urls import URLPattern, get_resolver

from lib.logs import (
    SECRET_PATHS,
    JSONFormatter,
    TextFormatter,
    WithoutAcceptedSockets,
    WithoutTokens,
    WithoutTracebacksOfClientFaults,
    hide_secrets,
)
from openhands_site.middleware.access_log import SECRET_ARGUMENTS

TOKEN = "Cn7" + "qX9_-zR4" * 5
KEY = f"oh_0123456789ab.{TOKEN}"
UUID = "018f0000-0000-7000-8000-000000000001"


@pytest.fixture(params=["json", "text"])
def log(request):
    """The log, formatted as the console's handler does.

    ``log.alone`` is a logger that writes only here: pytest-xdist cannot send captured text with lone surrogates.
    """
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter() if request.param == "json" else TextFormatter())
    handler.addFilter(WithoutTokens())
    stream.alone = logging.Logger("alone")  # noqa: LOG001 - not in the tree of loggers
    stream.alone.addHandler(handler)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


PATHS = [
    "/setup/{}", "/invitations/{}", "/settings/email/{}", "/shared/{}", "/api/v1/shared/{}",
    "/api/v1/shared/{}/events", "/settings/email/{}/", "/settings//email/{}", "//settings/email/{}",
    "/Settings/Email/{}", "/invitations/{}/accept", "/settings/email%2F{}", "/nothing/{}", "/{}",
    "/reset/MQ/{}/", "/verify-email/{}", "/oidc/acme/callback/{}", "/static/{}",
    "/?token={}", "/sign-in?next=/settings/email/{}", "/sign-in?next=%2Finvitations%2F{}",
    "/oidc/acme/callback?code={}&state=x", "/oidc/acme/callback?state={}", "/ws/v1/conversations/x?ticket={}",
    "/api/v1/users/me?api_key={}", "/api/v1/users/me?X-API-Key={}", "/?session_api_key={}", "/?a=1&b={}",
    "/api/conversations/x?session_api_key=ocs_{}", "/admin/login/?next=/admin/?token%3D{}", "/device?user_code={}",
    "/api/v1/nothing/{}", "/api/keys/{}", "/api/secrets/x?value={}", "/?q[]={}", "/mcp?access_token={}",
]  # fmt: skip


@pytest.mark.parametrize("secret", [TOKEN, KEY], ids=["token", "key"])
@pytest.mark.parametrize("path", PATHS)
def test_access_log_contains_no_secret_of_a_url(db, log, path, secret):
    Client(raise_request_exception=False).get(path.format(secret))

    assert log.getvalue().strip() or path.startswith("/static/")
    assert TOKEN not in log.getvalue()


LOGGERS = (
    *("uvicorn.error", "uvicorn.access", "django.request", "django.security.csrf", "django.server"),
    *("django.channels.server", "access", "any"),
)
UNKNOWN = ("/nothing/{}", "/{}", "/api/v1/nothing/{}", "/static/{}", "/reset/MQ/{}/", "/api/keys/{}",
           "/oidc/acme/callback/{}")  # fmt: skip
"""Paths in which only the form of a key reveals that a segment is secret."""


@pytest.mark.parametrize("path", PATHS)
def test_loggers_that_print_a_path_contain_no_secret(log, path):
    target = path.format(KEY if path in UNKNOWN else TOKEN)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        level, logger.level = logger.level, logging.DEBUG
        try:
            logger.warning('%s - "GET %s HTTP/1.1" 404', "127.0.0.1", target)
            logger.error("Internal Server Error: %s", target, extra={"url": target})
            try:
                fail(f"no page at {target}")
            except ValueError:
                logger.exception("failed")
        finally:
            logger.level = level

    assert log.getvalue().count("failed") >= len(LOGGERS)
    assert TOKEN not in log.getvalue()


@pytest.mark.parametrize("text", [KEY, f"ogt_0123456789abcdef.{TOKEN}", f"ocs_{TOKEN}.{'0' * 40}",
                                  f"{UUID.replace('-', '')}.{TOKEN}", f"eyJhbGciOi.{TOKEN}.{TOKEN}",
                                  f"Authorization: Bearer {TOKEN}"])  # fmt: skip
def test_keys_and_tokens_are_hidden_in_any_message(log, text):
    logging.getLogger("any").error("the client sent %s.", text)

    assert TOKEN not in log.getvalue()
    assert "the client sent" in log.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        f"/api/v1/conversations/{UUID} 200", "conversations.services.delivery failed",
        "https://api.example.com/v1/models returned 502", f"generation 3 of {UUID}", "a = b; c == d",
        "lib.logs.py, line 3", "1.2.3.4:8000", "version 1.58.0 of openhands-agent-server",
        "0.1.dev0+g0123456789abcdef", "What? a=1", f"{'0' * 64}",
    ],
)  # fmt: skip
def test_other_messages_stay_as_they_are(log, text):
    logging.getLogger("any").error("%s", text)

    assert text in log.getvalue()


def fail(text):
    raise ValueError(text)


def list_patterns(patterns, prefix=""):
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield route, pattern
        else:
            yield from list_patterns(pattern.url_patterns, route)


def test_every_route_with_a_secret_parameter_is_known():
    routes = [route for route, _ in list_patterns(get_resolver().url_patterns)]
    secret = [r for r in routes if re.search(r"<(\w+:)?\w*(token|link)>|\(\?P<\w*(token|link)>", r)]
    assert len(secret) >= 5
    assert {re.search(r"(token|link)>", route)[1] for route in secret} == SECRET_ARGUMENTS
    for route in secret:
        before = re.split(r"<|\(\?P<", route)[0].strip("/^")
        assert any(before.endswith(path) for path in SECRET_PATHS), route


# --- Lines that somebody else wrote --------------------------------------------------------------

FORGED = "I access: GET /admin/ 200"
CONTROLS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029",
            "\x1b[31m", "\x1b]0;title\x07", "\x9b31m", "\x08" * 9, "\x7f", "\x00", "\u202e", "\u2066", "\ud800",
            "\ufeff", "\x1b[2J", "\x90q\x9c"]  # fmt: skip


def assert_one_line_without_controls(text, lines=1):
    assert len(text.rstrip("\n").splitlines()) == lines, text
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text
    )


@pytest.mark.parametrize("control", CONTROLS, ids=repr)
def test_message_with_control_characters_is_one_line(log, control):
    log.alone.error("GET /x%s 404", control + FORGED)
    log.alone.error("GET", extra={"path": control + FORGED, "deep": {control: [control]}})

    assert_one_line_without_controls(log.getvalue(), lines=2)
    log.getvalue().encode()


@pytest.mark.parametrize("control", CONTROLS, ids=repr)
def test_exception_with_control_characters_forges_no_line(log, control):
    try:
        fail(control + FORGED)
    except ValueError:
        log.alone.exception("failed")

    lines = log.getvalue().split("\n")
    assert not any(line.startswith("I access") for line in log.getvalue().splitlines())
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\u2066\ud800-\udfff]", "".join(lines)
    )
    log.getvalue().encode()


@pytest.mark.parametrize(
    "path", ["/x%0aI%20access:%20GET%20/admin/%20200", "/x%0d%0aforged", "/x%1b[31mred", "/x%c2%9b31m",
             "/x%e2%80%a8forged", "/x%ed%a0%80", "/x%ff%fe", "/x%e2%80%ae", "/x%7f", "/x%c2%85forged",
             "/admin/x%0aforged", "/api/v1/x%0aforged", "/shared/x%0aforged", "/settings/email/x%0aforged"]
)  # fmt: skip
def test_path_with_control_characters_is_one_line(db, log, path):
    Client(raise_request_exception=False).get(path)

    text = log.getvalue()
    assert "404" in text or "302" in text or "200" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\ud800-\udfff]", text)
    for line in text.rstrip("\n").splitlines():
        assert not line.startswith(("I access: GET /admin/ 200", "forged"))


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_USER_AGENT": "x\x1b[31m\x9b"}, {"HTTP_X_REQUEST_ID": "abcdefgh\x1b[31m"}, {"HTTP_HOST": "a\x1b[31m.example"},
        {"HTTP_REFERER": "http://x/\x85forged"}, {"HTTP_X_FORWARDED_FOR": "1.2.3.4\u2028forged"},
        {"HTTP_ORIGIN": "http://\x1b[31m"}, {"REQUEST_METHOD": "GET"}, {"HTTP_ACCEPT_LANGUAGE": "\x1b[31m"},
    ],
)  # fmt: skip
def test_header_with_control_characters_is_never_shown_raw(db, log, headers):
    Client(raise_request_exception=False).post(
        "/sign-in", {"email": "a\x1b[31m@x", "password": "x"}, **headers
    )

    assert log.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", log.getvalue())


def test_name_of_a_user_with_control_characters_is_never_shown_raw(log, alice):
    alice.name = "A\x1b[31m\nI access: GET /admin/ 200"
    alice.email = "a\x9bb@example.com"
    log.alone.error("%s (%s) signed in", alice, alice.name, extra={"user": alice})

    assert_one_line_without_controls(log.getvalue())


def test_json_lines_stay_valid_json():
    formatter = JSONFormatter()
    for value in (
        2**70,
        {1: "\ud800"},
        {"\ud800": 1},
        b"\x1b",
        object(),
        float("nan"),
        {2**70: 1},
        {(1, 2): "x"},
    ):
        record = logging.makeLogRecord(
            {"msg": "m", "levelname": "ERROR", "name": "n", "value": value}
        )
        assert json.loads(formatter.format(record))["message"] == "m"


def test_message_with_a_wrong_format_does_not_raise_in_the_caller(log, capsys):
    log.alone.error("%d", "x")
    assert "Logging error" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["django", "django.request", "django.server", "django.channels.server",
                                  "django.security.DisallowedHost", "uvicorn.error", "uvicorn.access", "x"])  # fmt: skip
def test_every_logger_writes_only_to_our_handler(name):
    """Django's default handlers write paths without our filter; with DEBUG they would be added to ours."""
    from django.utils.log import DEFAULT_LOGGING

    saved = {n: (logging.getLogger(n).handlers[:], logging.getLogger(n).propagate, logging.getLogger(n).level)
             for n in ("", "django", "django.server")}  # fmt: skip
    try:
        logging.config.dictConfig(DEFAULT_LOGGING)
        logging.config.dictConfig(configured.LOGGING)
        logger, handlers = logging.getLogger(name), []
        while logger:
            handlers += logger.handlers
            logger = logger.parent if logger.propagate else None
        ours = [h for h in handlers if type(h.formatter) in (JSONFormatter, TextFormatter)]
        foreign = [
            h for h in handlers if h not in ours and not type(h).__module__.startswith("_pytest")
        ]
        assert len(ours) == 1
        assert any(isinstance(f, WithoutTokens) for f in ours[0].filters)
        assert foreign == []
    finally:
        for n, (handlers, propagate, level) in saved.items():
            logger = logging.getLogger(n)
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)


@pytest.mark.parametrize("text", ["?" + "a" * 99_999, "/setup/" * 20_000, "%2f" * 50_000, "bearer " * 20_000,
                                  ("a" * 63 + ".") * 2_000, ";a" * 50_000, "?a%" * 40_000, "ocs_" * 30_000,
                                  "eyJaaaaaaaa." * 9_000, "/" * 99_999, "oh_" * 40_000])  # fmt: skip
def test_long_text_is_searched_in_linear_time(text):
    started = time.process_time()
    hide_secrets(text)
    assert time.process_time() - started < 2


def test_accepted_sockets_have_no_line_and_refused_ones_have_one(log):
    logger = logging.getLogger("uvicorn.error")
    assert configured.LOGGING["loggers"]["uvicorn.error"]["filters"] == ["accepted-sockets"]
    log_filter = WithoutAcceptedSockets()
    logger.addFilter(log_filter)
    try:
        # The messages of uvicorn 0.54 and websockets 16 for an accepted socket, then those for a refused one.
        logger.warning('%s - "WebSocket %s" [accepted]', "127.0.0.1:1", "/ws/v1/conversations/x")
        logger.warning("connection open")
        logger.warning("connection closed")
        assert log.getvalue() == ""
        logger.warning('%s - "WebSocket %s" 403', "127.0.0.1:1", "/ws/v1/conversations/x")
        logger.warning("connection rejected (%d %s)", 403, "Forbidden")
    finally:
        logger.removeFilter(log_filter)
    assert log.getvalue().count("\n") == 2


def test_request_that_django_refuses_is_logged_without_a_traceback(log):
    log_filter = WithoutTracebacksOfClientFaults()
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is log:
            handler.addFilter(log_filter)
    for name in ("django.security.DisallowedHost", "django.request"):
        logging.getLogger(name).error("Invalid", exc_info=ValueError("wrong host"))
    assert log.getvalue().count("ValueError: wrong host") == 1
    assert configured.LOGGING["handlers"]["console"]["filters"][1] == "client-faults"
