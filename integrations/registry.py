"""The Git hosts that this server supports. Functions check a host's name, and create the ``GitProvider`` for a host."""

import re
from urllib.parse import urlsplit

from django.utils.module_loading import import_string

from integrations.hosts import web_url
from integrations.provider import GitProvider
from lib import url_guard
from lib.problems import Problem

PROVIDERS: dict[str, str] = {"github": "integrations.github.provider.GitHubProvider"}
"""The provider class of each Git host, as a dotted path, so that this module imports no vendor package."""
DEFAULT_HOSTS = {
    "github": "github.com",
    "gitlab": "gitlab.com",
    "bitbucket": "bitbucket.org",
}
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?")


class UnknownProvider(Problem):
    """A request names a Git host that this server does not support."""

    status = 404
    code = "unknown-provider"
    sentence = "This server does not support this Git host."


class BadHost(Problem):
    """The name of a Git host is not valid or not allowed."""

    status = 422
    code = "bad-host"
    sentence = "Enter the host name of the Git host without a path, for example git.example.com."


def get_provider(name: str, *, host: str, token: str) -> GitProvider:
    """Return the ``GitProvider`` for a token. An empty ``host`` means the default host of the provider ``name``.

    Raise ``UnknownProvider``.
    """
    if name not in PROVIDERS:
        raise UnknownProvider
    git_provider: GitProvider = import_string(PROVIDERS[name])(
        host=host or DEFAULT_HOSTS[name], token=token
    )
    return git_provider


def normalize_host(name: str, host: str | None) -> str:
    """Return a host name as the database stores it: in lower case, and empty for the provider's default host.

    ``name`` is the provider, and ``host`` a host name with or without ``https://``. The scheme ``http://`` is allowed
    only for the loopback address of this machine. Raise ``BadHost`` if the host name is not valid, or if its address
    is private and ``UPSTREAM_ALLOW_PRIVATE`` is off.
    """
    text = (host or "").strip().lower().rstrip("/")
    scheme, separator, host_name = text.rpartition("://")
    default_host = DEFAULT_HOSTS.get(name, "")
    # Users also paste the URL of the website or of the API.
    if host_name in ("", default_host, f"www.{default_host}", f"api.{default_host}"):
        return ""
    if scheme not in ("", "http", "https") or not _HOST.fullmatch(host_name):
        raise BadHost
    # Requests always use the scheme of web_url, so reject a URL with another scheme instead of ignoring the scheme.
    if separator and scheme != urlsplit(web_url(host_name)).scheme:
        raise BadHost("Enter an address that starts with https://.")
    try:
        url_guard.check_url(web_url(host_name))
    except url_guard.UnsafeUrl as error:
        raise BadHost(f"This host is not allowed: {error}") from error
    return host_name
