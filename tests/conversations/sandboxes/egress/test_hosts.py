"""Spellings of hosts and of host patterns."""

import ipaddress

import pytest

from conversations.sandboxes.egress.hosts import (
    BadHost,
    HostSet,
    normalize_host,
    normalize_pattern,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("pypi.org", "pypi.org"),
        ("PyPI.org.", "pypi.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[2001:DB8::A]", "2001:db8::a"),
    ],
)
def test_host_is_normalized_and_normalizing_again_changes_nothing(text, normal):
    assert normalize_host(text) == normal
    assert normalize_host(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        "example.com..",
        "-a.example",
        "a b",
        "a/b",
        "a@b",
        "a%31",
        "a\0b",
        "a\nb",
        "ａ／b.example",
        "*.example.com",
        "127.0.0.1 x",
        "1.2.3.4.5",
        "256.256.256.256",
        "127.0.0.08",
        "example.0x7f",
        "[127.0.0.1]",
        "[::1",
        "fe80::1%lo",
        "a" * 64,
        "a." * 127 + "a",
        "a" * 2000,
        "é" * 900,
        "straße.example",
        "a\u200d.example",
        "\ud800.example",
    ],
)
def test_host_that_is_not_valid_is_refused_with_a_sentence(text):
    with pytest.raises(BadHost, match=r"^[A-Z“].*\.$"):
        normalize_host(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("https://example.com/x", "is a URL. Write only the host: example.com."),
        ("http://me:pw@example.com", "Write only the host: example.com."),
        ("example.com/x", "without a path"),
        ("example.com:443", "has a port. Write only the host, example.com"),
        ("[::1]:443", "has a port. Write only the host, [::1]"),
        ("*", "Choose the profile “public”"),
        ("**.example.com", "is not a pattern"),
        ("*.*.example.com", "is not a pattern"),
        ("a.*.example.com", "is not a pattern"),
        ("*example.com", "is not a pattern"),
        ("*.10.0.0.1", "combines * with an IP address"),
        ("*.example.com:80", "has a port"),
        ("10.0.0.0/8", "is a block of addresses"),
        ("", "is empty"),
        ("exa mple.com", "is not a host name"),
    ],
)
def test_bad_pattern_is_refused_with_a_sentence_that_says_how_to_write_it(text, part):
    with pytest.raises(BadHost) as caught:
        normalize_pattern(text)

    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" *.Example.COM. ", "*.example.com"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("0x7f.1", "127.0.0.1"),
        ("::1", "::1"),
        ("10.1.0.0/16", "10.1.0.0/16"),
        ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
        ("FD00::/8", "fd00::/8"),
    ],
)
def test_pattern_is_normalized(text, normal):
    assert normalize_pattern(text, blocks=True) == normal


def test_block_with_bits_outside_of_it_is_refused():
    with pytest.raises(BadHost, match=r"Write 10\.1\.0\.0/16\."):
        normalize_pattern("10.1.2.3/16", blocks=True)


def test_wildcard_matches_names_below_but_not_the_name_itself_nor_a_longer_name():
    hosts = HostSet.of(["*.example.com", "pypi.org"])

    assert hosts.has_host("a.example.com")
    assert hosts.has_host("a.b.example.com")
    assert not hosts.has_host("example.com")
    assert not hosts.has_host("badexample.com")
    assert not hosts.has_host("example.com.evil.org")
    assert hosts.has_host("pypi.org")
    assert not hosts.has_host("files.pypi.org")


def test_reserved_address_is_named_only_by_itself_or_by_a_block_of_its_kind():
    metadata = ipaddress.ip_address("169.254.169.254")
    alibaba = ipaddress.ip_address("100.100.100.200")

    assert HostSet.of(["169.254.169.254"]).has_reserved(metadata)
    assert HostSet.of(["169.254.0.0/16"], blocks=True).has_reserved(metadata)
    assert not HostSet.of(["0.0.0.0/0", "168.0.0.0/6"], blocks=True).has_reserved(metadata)
    assert not HostSet.of(["100.64.0.0/10"], blocks=True).has_reserved(alibaba)
    assert HostSet.of(["100.100.100.200"]).has_reserved(alibaba)
