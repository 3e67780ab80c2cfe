"""Downloads of one pinned wheel from a package index with the standard library, for a machine without pip.

Pages of an index are JSON or HTML: https://packaging.python.org/en/latest/specifications/simple-repository-api/
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html.parser
import json
import netrc
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from lib.python_packages import pip_settings, tags
from lib.python_packages.default_index import default_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)
_TIMEOUT_SECONDS = 15
"""pip's own default."""
_BLOCK_BYTES = 256 * 1024


class NotFetched(Exception):
    """A wheel could not be downloaded. The message says why."""


class WrongHash(Exception):
    """The content of a downloaded wheel is not the pinned one. The message names the file and its source."""


@dataclass(frozen=True)
class Pin:
    """One pinned package of a requirements file: the name, the version and the accepted SHA-256 hashes."""

    name: str
    version: str
    hashes: frozenset[str]


@dataclass(frozen=True)
class _File:
    name: str
    url: str
    sha256: str
    """The hash according to the index, or empty text."""


def read_pin(lock: Path, name: str) -> Pin:
    """Return the pin of a package in a requirements file with hashes. Raise ``KeyError`` if there is none."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if found := re.match(rf"{re.escape(name)}==(\S+)", line):
            return Pin(name, found[1], frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", line)))
    raise KeyError(name)


def fetch_wheel(
    pin: Pin,
    folder: Path,
    *,
    environment: Mapping[str, str] = os.environ,
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """Download the wheel of a pinned package for this machine into ``folder``, and return its path.

    The indexes and links are those of pip's and uv's settings. ``report`` gets the bytes read so far and in all (0 if
    unknown). Raise ``NotFetched`` if no source has the wheel, and ``WrongHash`` if a source has another file under
    its name.
    """
    client = _Client(environment)
    errors: list[str] = []
    for source in client.sources():
        try:
            files = list(client.list_files(source, pin.name))
            wheel = _choose(files, pin)
            if wheel is None:
                errors.append(
                    f"{_shown(source)} has no wheel of {pin.name} {pin.version} for {tags.describe()}"
                )
                continue
            return client.download(wheel, folder, pin, report or _ignore)
        except (OSError, ValueError) as error:
            errors.append(f"{_shown(source)}: {_reason(error)}")
    raise NotFetched("; ".join(errors) or "without pip, set PIP_INDEX_URL to a package index")


def _ignore(done: int, total: int) -> None:
    """Do not report progress."""


def _choose(files: list[_File], pin: Pin) -> _File | None:
    """Return the best wheel for this machine, or None. The hash is checked after the download."""
    prefix = f"{pin.name.replace('-', '_')}-{pin.version}-"
    ranked = [
        (rank, file)
        for file in files
        if file.name.startswith(prefix) and file.name.endswith(".whl")
        if (rank := tags.rank_wheel(file.name)) is not None
    ]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _shown(url: str) -> str:
    """Return a URL without its password."""
    parts = urlsplit(url)
    return (
        urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else url
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason)


class _Client:
    """An HTTP client with pip's proxy, certificates, trusted hosts, credentials and timeout."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.settings = pip_settings.read_settings(environment)
        try:
            self.timeout = float(self.settings.text("timeout") or _TIMEOUT_SECONDS)
        except ValueError:
            self.timeout = _TIMEOUT_SECONDS

    def sources(self) -> Iterator[str]:
        """Yield the places of packages: links first, then indexes. Variables of uv replace pip's settings."""
        own = self.environment.get("UV_FIND_LINKS", "")
        yield from [link for link in own.split(",") if link] or self.settings.links()
        if self.settings.is_on("no-index"):
            return
        extra = self.environment.get("UV_INDEX") or self.environment.get("UV_EXTRA_INDEX_URL") or ""
        for url in extra.split() or self.settings.texts("extra-index-url"):
            yield self._index(url)
        main = (
            self.environment.get("UV_DEFAULT_INDEX")
            or self.environment.get("UV_INDEX_URL")
            or self.settings.text("index-url")
            or default_index()
        )
        if main:
            yield self._index(main)

    @staticmethod
    def _index(url: str) -> str:
        # uv's settings may name an index: name=https://…
        named = re.match(r"[A-Za-z0-9_.-]+=(.+)", url)
        return (named[1] if named else url).rstrip("/") + "/"

    def list_files(self, source: str, name: str) -> Iterator[_File]:
        """Yield the files that a link or an index offers for a package."""
        if "://" not in source or source.startswith("file:"):
            path = Path(unquote(urlsplit(source).path) if "://" in source else source)
            files = path.iterdir() if path.is_dir() else [path]
            yield from (_File(file.name, file.resolve().as_uri(), "") for file in files)
            return
        url = urljoin(source, f"{name}/") if source.endswith("/") else source
        with self._open(url, {"Accept": _ACCEPT, "Accept-Encoding": "gzip"}) as response:
            body = response.read()
            if response.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if "json" in response.headers.get("Content-Type", ""):
                yield from _files_of_json(json.loads(body), response.url)
            else:
                yield from _files_of_html(body.decode("utf-8", "replace"), response.url)

    def download(
        self, file: _File, folder: Path, pin: Pin, report: Callable[[int, int], None]
    ) -> Path:
        if file.sha256 and file.sha256 not in pin.hashes:
            raise WrongHash(_refusal(file))  # the index says so itself, before any download
        path = folder / file.name
        for is_last in (False, True):
            try:
                digest = self._read_to(path, file.url, report)
                break
            except (OSError, ValueError):
                if is_last:
                    raise
                time.sleep(0.5)
        if digest not in pin.hashes:
            path.unlink()
            raise WrongHash(_refusal(file))
        return path

    def _read_to(self, path: Path, url: str, report: Callable[[int, int], None]) -> str:
        digest, done = hashlib.sha256(), 0
        with self._open(url, {}) as response, path.open("wb") as output:
            total = int(response.headers.get("Content-Length") or 0)
            while block := response.read(_BLOCK_BYTES):
                output.write(block)
                digest.update(block)
                done += len(block)
                report(done, total)
        if total and done < total:
            raise OSError(f"the connection ended after {done} of {total} bytes")
        return digest.hexdigest()

    def _open(self, url: str, headers: dict[str, str]) -> Any:
        parts = urlsplit(url)
        user, _, address = parts.netloc.rpartition("@")
        request = urllib.request.Request(  # noqa: S310 - the schemes are those of pip's settings
            urlunsplit(parts._replace(netloc=address)),
            headers={"User-Agent": "uv-setup", **headers},
        )
        if credentials := user or self._netrc(parts.hostname or ""):
            name, _, password = credentials.partition(":")
            token = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
            # A redirect to another host must not carry the password.
            request.add_unredirected_header("Authorization", f"Basic {token}")
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.HTTPSHandler(context=self._tls(parts.hostname or "", address))
        ]
        if proxy := self.settings.text("proxy"):
            handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
        return urllib.request.build_opener(*handlers).open(request, timeout=self.timeout)

    def _netrc(self, host: str) -> str:
        try:
            found = netrc.netrc(self.environment.get("NETRC")).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            return ""
        return f"{found[0]}:{found[2]}" if found else ""

    def _tls(self, host: str, address: str) -> ssl.SSLContext:
        chosen = pip_settings.certificate_path(self.settings, self.environment)
        is_folder = bool(chosen and Path(chosen).is_dir())
        context = ssl.create_default_context(
            cafile=None if is_folder else chosen, capath=chosen if is_folder else None
        )
        own = self.environment.get("UV_INSECURE_HOST", "").split()
        if {host, address} & {*own, *self.settings.texts("trusted-host")}:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate := self.settings.text("client-cert"):
            context.load_cert_chain(certificate)
        return context


def _refusal(file: _File) -> str:
    return f"{file.name} from {_shown(urlsplit(file.url)._replace(query='').geturl())} is not the pinned file"


def _files_of_json(page: dict[str, Any], base: str) -> Iterator[_File]:
    for file in page.get("files", ()):
        sha256 = file.get("hashes", {}).get("sha256", "")
        yield _File(file["filename"], urljoin(base, file["url"]), sha256)


def _files_of_html(page: str, base: str) -> Iterator[_File]:
    parser = _Links()
    parser.feed(page)
    for link in parser.found:
        url, fragment = urldefrag(urljoin(base, link))
        sha256 = fragment[7:] if fragment.startswith("sha256=") else ""
        yield _File(unquote(urlsplit(url).path.rpartition("/")[2]), url, sha256)


class _Links(html.parser.HTMLParser):
    """A parser that collects the targets of all links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (target := dict(attrs).get("href")):
            self.found.append(target)
