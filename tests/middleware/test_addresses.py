"""The client's address under ASGI: from the forwarding headers of trusted proxies only."""

import pytest

from openhands_site.serving.addresses import ClientAddress


async def pass_through(peer, *forwarded, kind="http", **headers):
    """Return the client address and the headers that the application receives."""
    received_scope = {}

    async def application(scope, receive, send):
        received_scope.update(scope)

    pairs = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    pairs += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    client = (peer, 5) if peer else None
    scope = {"type": kind, "client": client, "headers": pairs}
    await ClientAddress(application)(scope, None, None)
    return (received_scope["client"] or ("",))[0], dict(received_scope["headers"])


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
async def test_client_address_is_the_last_untrusted_address(
    settings, peer, forwarded, address, kind
):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8", "unix"]

    assert (await pass_through(peer, *forwarded, kind=kind))[0] == address


async def test_forwarding_headers_of_an_untrusted_peer_are_dropped(settings):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    forwarding_headers = {
        "x_forwarded_proto": "https",
        "x_forwarded_host": "evil.example",
        "accept": "*/*",
    }

    assert (await pass_through("203.0.113.9", **forwarding_headers))[1] == {b"accept": b"*/*"}
    assert b"x-forwarded-proto" in (await pass_through("10.0.0.1", **forwarding_headers))[1]


async def test_without_trusted_proxies_the_peer_is_the_client_and_headers_are_kept(settings):
    settings.TRUSTED_PROXIES = []

    address, headers = await pass_through("203.0.113.9", "1.1.1.1", x_forwarded_proto="https")

    assert address == "203.0.113.9"
    assert b"x-forwarded-proto" in headers
