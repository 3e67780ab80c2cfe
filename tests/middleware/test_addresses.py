"""The client's address under ASGI: from the forwarding headers of trusted proxies only."""

import time

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
        ("10.0.0.1", ["203.0.113.7:51234"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7:"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7:51234, 10.0.0.2:80"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db8::7]:51234"], "2001:db8::7"),
        ("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
        # Without brackets, where the last group cannot belong to the address.
        ("10.0.0.1", ["2001:db8::7:51234"], "2001:db8::7"),
        ("10.0.0.1", ["2001:db8:0:0:0:0:0:7:443, 10.0.0.2"], "2001:db8::7"),
        ("10.0.0.1", ["2001:db8::7:123456"], "10.0.0.1"),
        ("10.0.0.1", ["2001:db8::x:51234"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:DB8:0::7]:51234 , 10.0.0.2"], "2001:db8::7"),
        ("10.0.0.1", ["fe80::7%eth0"], "fe80::7"),
        ("10.0.0.1", ["[fe80::7%25eth0]:443"], "fe80::7"),
        ("10.0.0.1", ['"203.0.113.7"'], "203.0.113.7"),
        ("10.0.0.1", ["  203.0.113.7\t"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6,203.0.113.7,10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.7:1, 10.0.0.3", "", " "], "203.0.113.7"),
        ("10.0.0.1", ["[::ffff:203.0.113.7]:9"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6, "], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, unix:"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, host:80, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7:x, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7:123456"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, [2001:db8::7, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["6.6.6.6, [2001:db8::7]x"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7%eth0"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.07"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, [10.0.0.9]:80, 999.1.1.1"], "10.0.0.1"),
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


FORWARDED = [
    ("for=203.0.113.7", "203.0.113.7"),
    ("For=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7"),
    ('for="203.0.113.7:51234"', "203.0.113.7"),
    ('proto=https; for="[2001:db8::7]:51234"', "2001:db8::7"),
    ('for="[2001:db8::7]"', "2001:db8::7"),
    ("for=6.6.6.6, for=203.0.113.7, for=10.0.0.2", "203.0.113.7"),
    ("for=6.6.6.6, for=unknown", "10.0.0.1"),
    ("for=6.6.6.6, for=_hidden, for=10.0.0.2", "10.0.0.2"),
    ("for=6.6.6.6, proto=https", "10.0.0.1"),
    ('for=6.6.6.6, by="a,for=7.7.7.7";for=203.0.113.7', "203.0.113.7"),
    ('for=6.6.6.6, host="for=7.7.7.7"', "10.0.0.1"),
    ("for=6.6.6.6, xfor=203.0.113.7", "10.0.0.1"),
    ("garbage", "10.0.0.1"),
    ('for="203.0.113.7', "10.0.0.1"),
]


@pytest.mark.parametrize(("value", "address"), FORWARDED)
async def test_forwarded_header_is_read_only_if_configured(settings, value, address):
    settings.TRUSTED_PROXIES, settings.TRUST_FORWARDED = ["10.0.0.0/8"], True

    assert (await pass_through("10.0.0.1", "9.9.9.9", forwarded=value))[0] == address

    settings.TRUST_FORWARDED = False
    assert (await pass_through("10.0.0.1", "9.9.9.9", forwarded=value))[0] == "9.9.9.9"


async def test_forwarded_header_of_an_untrusted_peer_is_dropped(settings):
    settings.TRUSTED_PROXIES, settings.TRUST_FORWARDED = ["10.0.0.0/8"], True

    address, headers = await pass_through("203.0.113.9", forwarded="for=1.1.1.1")

    assert (address, headers) == ("203.0.113.9", {})


@pytest.mark.parametrize(
    "text", ["[" * 90_000, '"' * 90_001, "for=" * 30_000, 'for="' + "\\" * 90_000]
)
async def test_hostile_header_is_read_quickly(settings, text):
    settings.TRUSTED_PROXIES, settings.TRUST_FORWARDED = ["10.0.0.0/8"], True
    started = time.process_time()

    await pass_through("10.0.0.1", text, forwarded=text)

    assert time.process_time() - started < 1
