"""The supported Git hosts, the creation of providers, and the validation of host names."""

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
    """Return a provider for a token; an empty ``host`` means the default host. Raise ``UnknownProvider``."""
    if name not in PROVIDERS:
        raise UnknownProvider
    provider: GitProvider = import_string(PROVIDERS[name])(
        host=host or DEFAULT_HOSTS[name], token=token
    )
    return provider


def normalize_host(name: str, host: str | None) -> str:
    """Return a host as it is stored: in lower case, and empty for the provider's default host.

    Only ``https://`` is allowed, except for the loopback address of this machine (``http://``, and only if private
    addresses are allowed). Raise ``BadHost`` if the host is not valid.
    """
    text = (host or "").strip().lower().rstrip("/")
    scheme, separator, rest = text.rpartition("://")
    own = DEFAULT_HOSTS.get(name, "")
    if rest in ("", own, f"www.{own}", f"api.{own}"):
        return ""
    if scheme not in ("", "http", "https") or not _HOST.fullmatch(rest):
        raise BadHost
    if separator and scheme != urlsplit(web_url(rest)).scheme:
        raise BadHost("Enter an address that starts with https://.")
    try:
        url_guard.check_url(web_url(rest))
    except url_guard.UnsafeUrl as error:
        raise BadHost(f"This host is not allowed: {error}") from error
    return rest
