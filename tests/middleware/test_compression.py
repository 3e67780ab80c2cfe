"""The rules for compression: responses that are compressed, and responses that are not, with the reason."""

import gzip
import json

import pytest
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory

from accounts.services import second_factor
from conversations import services
from openhands_site.middleware.compression import MINIMUM_BYTES, Compression
from tests.factories.conversations import EventFactory

TEXT = "A text that repeats itself. " * 100
JSON = "application/json"


def respond(response, *, accepts="gzip, deflate, br", method="GET"):
    request = RequestFactory().generic(method, "/", headers={"Accept-Encoding": accepts})
    return Compression(lambda _: response)(request)


def is_compressed(response):
    return response.headers.get("Content-Encoding") == "gzip"


@pytest.mark.parametrize(
    "kind",
    [
        *("text/html; charset=utf-8", "text/plain", "text/markdown", "TEXT/CSS", JSON),
        *(
            "application/problem+json",
            "application/vnd.oai.openapi; charset=utf-8",
            "image/svg+xml",
        ),
        *("application/vnd.oai.openapi+json", "text/javascript", "application/xml"),
    ],
)
def test_texts_are_compressed(kind):
    response = respond(HttpResponse(TEXT, content_type=kind))

    assert is_compressed(response)
    assert gzip.decompress(response.content).decode() == TEXT
    assert int(response.headers["Content-Length"]) == len(response.content) < len(TEXT) / 5
    assert response.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "kind",
    [
        "application/zip",
        "application/gzip",
        "application/octet-stream",
        "image/png",
        "text/event-stream",
        "",
    ],
)
def test_archives_images_and_event_streams_are_not_compressed(kind):
    assert not is_compressed(respond(HttpResponse(TEXT, headers={"Content-Type": kind})))
    assert not is_compressed(respond(StreamingHttpResponse([TEXT], headers={"Content-Type": kind})))


@pytest.mark.parametrize(
    "accepts", ["", "identity", "br", "deflate", "gzip;q=0", "br, gzip; q=0.0"]
)
def test_client_that_does_not_accept_gzip_gets_the_plain_text(accepts):
    response = respond(HttpResponse(TEXT), accepts=accepts)

    assert not is_compressed(response)
    assert response.content.decode() == TEXT
    assert response.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "response",
    [
        HttpResponse("x" * (MINIMUM_BYTES - 1)),
        HttpResponse(TEXT, status=206, headers={"Content-Range": "bytes 0-99/200"}),
        HttpResponse(status=304),
        HttpResponse(TEXT, headers={"Cache-Control": "no-store, no-transform"}),
        HttpResponse(json.dumps({"session_api_key": "key", "text": TEXT}), content_type=JSON),
        HttpResponse(
            json.dumps([{"session_api_key": "key"}, TEXT], separators=(",", ":")), content_type=JSON
        ),
    ],
    ids=["short", "range", "not modified", "no-transform", "key", "key in a list"],
)
def test_short_partial_or_secret_responses_are_unchanged(response):
    before = response.content

    assert not is_compressed(respond(response))
    assert response.content == before


def test_record_without_its_key_is_compressed():
    content = json.dumps({"session_api_key": None, "text": TEXT})

    assert is_compressed(respond(HttpResponse(content, content_type=JSON)))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_responses_to_changes_are_not_compressed(method):
    # They are the only ones that show new keys, links and codes.
    assert not is_compressed(respond(HttpResponse(TEXT), method=method))


def test_response_that_is_encoded_already_is_unchanged():
    response = respond(HttpResponse(TEXT, headers={"Content-Encoding": "br"}))

    assert response.headers["Content-Encoding"] == "br"
    assert response.content.decode() == TEXT


def test_strong_etag_becomes_weak():
    assert respond(HttpResponse(TEXT, headers={"ETag": '"1"'})).headers["ETag"] == 'W/"1"'


def test_stream_is_compressed_piece_by_piece():
    pieces = iter([TEXT.encode()] * 200)
    response = respond(StreamingHttpResponse(pieces, content_type=JSON))
    stream = iter(response)

    next(stream)
    assert next(pieces, None) is not None, "the whole stream was read before the first piece"
    rest = b"".join(stream)

    assert is_compressed(response)
    assert "Content-Length" not in response.headers
    assert len(rest) < 50_000


def test_length_of_the_same_text_varies():
    lengths = {len(respond(HttpResponse(TEXT)).content) for _ in range(50)}

    assert len(lengths) > 10


def test_file_of_a_web_client_is_compressed(tmp_path):
    file = tmp_path / "index.js"
    file.write_text(TEXT)

    response = respond(FileResponse(file.open("rb"), content_type="text/javascript"))

    assert gzip.decompress(b"".join(response)).decode() == TEXT
    for close in response._resource_closers:
        close()


# --- The whole server -------------------------------------------------------------


@pytest.fixture
def conversation(alice):
    row = services.create_conversation(user=alice)
    for _ in range(30):
        EventFactory(
            conversation=row, payload=json.dumps({"kind": "MessageEvent", "text": TEXT[:200]})
        )
    return row


@pytest.fixture
def browser(alice):
    client = Client(headers={"Accept-Encoding": "gzip"})
    client.force_login(alice)
    return client


def test_pages_lists_and_exports_are_compressed(browser, conversation):
    base = f"/api/v1/conversations/{conversation.pk}"

    for path in (
        "/",
        "/settings",
        f"/conversations/{conversation.pk}",
        "/admin/login/?next=/",
        "/api/v1/schema",
        f"{base}/events",
        f"{base}/trajectory?format=json",
        f"{base}/trajectory?format=html",
    ):
        response = browser.get(path, follow=True)
        body = b"".join(response) if response.streaming else response.content
        assert response.status_code == 200, path
        assert is_compressed(response), path
        assert len(gzip.decompress(body)) > MINIMUM_BYTES, path


def test_conditional_request_is_answered_with_304_whether_compressed_or_not(browser, conversation):
    path = f"/api/v1/conversations/{conversation.pk}/events"
    compressed = browser.get(path)
    plain = browser.get(path, headers={"Accept-Encoding": "identity"})

    assert is_compressed(compressed)
    assert compressed.headers["ETag"] == plain.headers["ETag"]
    for encoding in ("gzip", "identity"):
        headers = {"If-None-Match": plain.headers["ETag"], "Accept-Encoding": encoding}
        response = browser.get(path, headers=headers)
        assert (response.status_code, response.content) == (304, b"")
        assert "Content-Encoding" not in response.headers


def test_head_has_the_headers_of_get(browser, conversation):
    response = browser.head(f"/conversations/{conversation.pk}")

    assert is_compressed(response)
    assert response.content == b""


@pytest.mark.parametrize("path", ["/api/conversations", "/api/v1/app-conversations/search"])
def test_records_with_conversation_keys_are_not_compressed(browser, conversation, path):
    conversation.status = "running"
    conversation.save()
    response = browser.get(path)

    assert response.status_code == 200
    assert b'"session_api_key":"' in response.content, "the test needs a record with a key"
    assert not is_compressed(response)


def test_page_with_the_secret_of_a_second_factor_is_not_compressed(browser, alice):
    second_factor.begin_second_factor(user=alice, password="correct horse battery")

    response = browser.get("/settings/second-factor")

    assert b"<svg" in response.content
    assert not is_compressed(response)
    assert "no-store" in response.headers["Cache-Control"]


def test_new_api_key_is_not_compressed(browser):
    response = browser.post(
        "/settings/api-keys", {"name": "laptop", "days": "30", "access": "full"}
    )

    assert response.status_code == 201
    assert b"oh_" in response.content
    assert not is_compressed(response)
