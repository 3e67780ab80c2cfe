"""IP addresses as texts."""

import ipaddress

import pytest

from lib.addresses import parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_text_of_an_address_is_read_and_a_mapped_one_is_ipv4(text, address):
    assert parse_address(text) == ipaddress.ip_address(address)


@pytest.mark.parametrize("text", ["", "unix:", "192.0.2", "192.0.2.1:80", "example.com", "\0"])
def test_other_text_is_no_address(text):
    assert parse_address(text) is None
