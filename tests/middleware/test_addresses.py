"""A caller's address is what our proxies saw, never what the caller wrote."""

import pytest

from openhands_site.serving.addresses import ClientAddress


async def seen(peer, *forwarded, kind="http", **headers):
    found = {}

    async def application(scope, receive, send):
        found.update(scope)

    pairs = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    pairs += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    client = (peer, 5) if peer else None
    scope = {"type": kind, "client": client, "headers": pairs}
    await ClientAddress(application)(scope, None, None)
    return (found["client"] or ("",))[0], dict(found["headers"])


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", ["10.0.0.7, 10.0.0.2"], "10.0.0.7"),
        ("10.0.0.1", ["6.6.6.6, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:1.1.1.1"], "1.1.1.1"),
        ("", ["1.1.1.1"], "1.1.1.1"),
    ],
)
async def test_address(settings, peer, forwarded, address, kind):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8", "unix"]

    assert (await seen(peer, *forwarded, kind=kind))[0] == address


async def test_a_stranger_cannot_say_it_came_by_https(settings):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    told = {"x_forwarded_proto": "https", "x_forwarded_host": "evil.example", "accept": "*/*"}

    assert (await seen("203.0.113.9", **told))[1] == {b"accept": b"*/*"}
    assert b"x-forwarded-proto" in (await seen("10.0.0.1", **told))[1]


async def test_without_proxies_nothing_is_believed_or_dropped(settings):
    settings.TRUSTED_PROXIES = []

    address, headers = await seen("203.0.113.9", "1.1.1.1", x_forwarded_proto="https")

    assert address == "203.0.113.9"
    assert b"x-forwarded-proto" in headers
