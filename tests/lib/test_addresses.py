"""Parsing IP addresses."""

import ipaddress

import pytest

from lib.addresses import parse_address, resolve


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_address_is_parsed_and_a_mapped_ipv4_address_is_unwrapped(text, address):
    assert parse_address(text) == ipaddress.ip_address(address)


@pytest.mark.parametrize("text", ["", "unix:", "192.0.2", "192.0.2.1:80", "example.com", "\0"])
def test_other_text_is_parsed_to_none(text):
    assert parse_address(text) is None


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "..", "\ud800.example"])
def test_name_that_no_resolver_accepts_has_no_address(host):
    with pytest.raises(OSError, match="is not a host name"):
        resolve(host, 443)
