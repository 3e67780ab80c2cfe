"""Which Git hosts this server knows, and what makes a provider of a host and a token."""

import re
from urllib.parse import urlsplit

from django.utils.module_loading import import_string

from integrations.hosts import web_url
from integrations.provider import GitProvider
from lib import url_guard
from lib.problems import Problem

PROVIDERS: dict[str, str] = {"github": "integrations.github.provider.GitHubProvider"}
"""Each Git host's provider class by its path, so that the vendor packages do not import each other."""
DEFAULT_HOSTS = {
    "github": "github.com",
    "gitlab": "gitlab.com",
    "bitbucket": "bitbucket.org",
}
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?")


class UnknownProvider(Problem):
    """No such Git host is built into this server."""

    status = 404
    code = "unknown-provider"
    sentence = "This server does not speak to that Git host."


class BadHost(Problem):
    """What was given as the host's name is none."""

    status = 422
    code = "bad-host"
    sentence = "Name the Git host as in git.example.com, without a path."


def get_provider(name: str, *, host: str, token: str) -> GitProvider:
    """A provider for one token. Raises ``UnknownProvider``."""
    if name not in PROVIDERS:
        raise UnknownProvider
    found: GitProvider = import_string(PROVIDERS[name])(
        host=host or DEFAULT_HOSTS[name], token=token
    )
    return found


def normal_host(name: str, host: str | None) -> str:
    """The host as it is kept: a name in lower case, empty for the provider's own.

    Hosts are reached by https; only this machine's loopback, where it may be called, by http. Raises ``BadHost``.
    """
    text = (host or "").strip().lower().rstrip("/")
    scheme, separator, rest = text.rpartition("://")
    own = DEFAULT_HOSTS.get(name, "")
    if rest in ("", own, f"www.{own}", f"api.{own}"):
        return ""
    if scheme not in ("", "http", "https") or not _HOST.fullmatch(rest):
        raise BadHost
    if separator and scheme != urlsplit(web_url(rest)).scheme:
        raise BadHost("A Git host is reached by https.")
    try:
        url_guard.check_url(web_url(rest))
    except url_guard.UnsafeUrl as error:
        raise BadHost(f"This host is not called: {error}") from error
    return rest
