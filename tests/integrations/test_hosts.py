import pytest

from integrations.hosts import web_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.2:8080", "http://127.0.0.2:8080"),
        ("localhost", "http://localhost"),
        ("github.com", "https://github.com"),
        ("10.0.0.1:3000", "https://10.0.0.1:3000"),
        ("localhost.example.com", "https://localhost.example.com"),
    ],
)
def test_only_hosts_at_loopback_addresses_use_http(host, url):
    assert web_url(host) == url
