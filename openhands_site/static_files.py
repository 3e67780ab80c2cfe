"""Static files under names with a hash of their content, compressed once, which browsers cache permanently.

``prepare`` writes the files to ``STATIC_ROOT`` and their names to a manifest. The name of the manifest contains a
digest of the sources, so a manifest of other sources is never used, and servers of two versions can share the folder.
Without a manifest, pages use the plain names, which WhiteNoise serves from the sources with a short lifetime.
"""

import fcntl
import hashlib
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.storage import CompressedManifestStaticFilesStorage

log = logging.getLogger(__name__)
LAYOUT = "1"
"""Part of the digest of the sources. Change it together with the way in which this module writes files."""
LEFT_OUT = [
    "*.map",
    "*.txt",
    "*.md",
    "LICENSE",
    "rest_framework/*",
    "*/redoc/*",
    "*/swagger-ui-es-*",
]
"""Files that no page loads. They are served from their packages."""
KEPT_SECONDS = 7 * 86_400
"""How long files of former versions are kept, which a running server of that version may still send."""
HASHED = re.compile(r"(?P<stem>.+)\.[0-9a-f]{12}(?P<suffix>\.\w+)")
"""The path of a file whose name contains a hash."""
IMPORTS = ManifestStaticFilesStorage._js_module_import_aggregation_patterns[1]  # type: ignore[attr-defined]  # noqa: SLF001 - Django's own patterns, without its file pattern
Sources = dict[str, tuple[Any, str]]
"""The storage of each source, and the path in that storage, by the name below ``STATIC_URL``."""


class HashedFiles(CompressedManifestStaticFilesStorage):
    """The storage that turns the name of a static file into its URL."""

    manifest_strict = False
    keep_intermediate_files = False
    keep_only_hashed_files = True
    # One pass for each level of imports.
    max_post_process_passes = 15
    # Django also rewrites the addresses of source maps. These are left out, because only developer tools load them.
    patterns = (("*.css", ManifestStaticFilesStorage.patterns[0][1][:2]), ("js/*.js", IMPORTS))

    def read_manifest(self) -> str | None:
        """Return the manifest of the present sources, or None."""
        if settings.DEBUG or not settings.STATIC_ROOT.is_dir():
            return None
        try:
            return manifest_path().read_text()
        except OSError:
            return None

    def stored_name(self, name: str) -> str:
        """Return the name with the hash, or the plain name if the manifest does not contain it."""
        if self.hash_key(self.clean_name(name)) not in self.hashed_files:
            return name
        stored: str = super().stored_name(name)
        return stored


class StaticFiles(WhiteNoiseMiddleware):
    """Middleware that serves static files. Files with a hash in their name may be cached permanently.

    During an update, a page of the former version may ask for a file of that version. It then gets the file of this
    version, which must not be cached under the other name.
    """

    def __call__(self, request: Any) -> Any:
        path = request.path_info
        if (
            path.startswith(self.static_prefix)
            and path not in self.files
            and (match := HASHED.fullmatch(path))
            and (file := self._find_present(match["stem"] + match["suffix"]))
        ):
            response = self.serve(file, request)
            response["Cache-Control"] = "no-cache"
            return response
        return super().__call__(request)

    def serve(self, static_file: Any, request: Any) -> Any:
        """Return the response with a file. If a newer version has removed the file, return its source."""
        try:
            return super().serve(static_file, request)
        except FileNotFoundError:
            match = HASHED.fullmatch(request.path_info)
            source = self.files.get(match["stem"] + match["suffix"]) if match else None
            if source is None or source is static_file:
                raise
            response = super().serve(source, request)
            response["Cache-Control"] = "no-cache"
            return response

    def _find_present(self, path: str) -> Any:
        if self.autorefresh:
            return self.find_file(path)
        stored = self.get_static_url(path.removeprefix(self.static_prefix))
        return self.files.get(stored) or self.files.get(path)

    def immutable_file_test(self, path: str, url: str) -> bool:
        """Return whether a file was written by ``prepare``, in this version or in a former one."""
        return bool(Path(path).is_relative_to(settings.STATIC_ROOT) and HASHED.fullmatch(url))


def prepare() -> bool:
    """Write the files of ``STATIC_ROOT`` unless they are there already. Return whether pages can use them.

    Takes less than a second for a new version, and about 20 ms if nothing changed. Needs no database. Several processes
    and threads may call this at the same time. If the folder cannot be written, log a warning: pages then use the
    plain names.
    """
    if settings.DEBUG:
        return False
    path = manifest_path()
    if path.exists():
        return True
    began = time.monotonic()
    try:
        with _lock(settings.STATIC_ROOT):
            if not path.exists():
                _write(path)
    except (OSError, ValueError, RuntimeError) as error:
        log.warning(
            "The static files could not be written to %s: %s. Pages work, but load more slowly. Correct the cause, for "
            "example the permissions of the folder, and start the server again.",
            settings.STATIC_ROOT,
            error,
        )
        return False
    log.debug("The static files were prepared in %.1f s.", time.monotonic() - began)
    return True


def manifest_path() -> Path:
    """Return the path of the manifest of the present sources."""
    return settings.STATIC_ROOT / f"manifest.{_digest()}.json"


def find_sources() -> Sources:
    """Return the static files of this project and of its packages, without those of ``LEFT_OUT``."""
    found: Sources = {}
    for finder in finders.get_finders():
        for path, storage in finder.list(LEFT_OUT):
            prefix = getattr(storage, "prefix", None)
            found.setdefault(f"{prefix}/{path}" if prefix else path, (storage, path))
    return found


@cache
def _digest() -> str:
    """Return a digest of the sources. A process reads them once, because it also reads the manifest once."""
    digest = hashlib.sha256(LAYOUT.encode())
    for name, (storage, path) in sorted(find_sources().items()):
        digest.update(name.encode() + b"\0")
        digest.update(hashlib.sha256(Path(storage.path(path)).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _write(manifest: Path) -> None:
    """Write all files to a temporary folder and move them to their place, the manifest last."""
    with tempfile.TemporaryDirectory(dir=manifest.parent, prefix=".new-") as name:
        folder = Path(name)
        files = HashedFiles(location=folder)
        files.manifest_name = manifest.name
        sources = find_sources()
        for source, (storage, path) in sources.items():
            (folder / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(storage.path(path), folder / source)
        for _, _, outcome in files.post_process(sources):
            if isinstance(outcome, Exception):
                raise outcome
        for made in sorted(folder.rglob("*")):
            if made.is_file() and made.name != manifest.name:
                target = manifest.parent / made.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                made.replace(target)
        (folder / manifest.name).replace(manifest)
    _remove_old(manifest)


def _remove_old(manifest: Path) -> None:
    """Remove the files of versions that were prepared long ago."""
    limit = time.time() - KEPT_SECONDS
    for path in manifest.parent.rglob("*"):
        if path != manifest and path.is_file() and path.stat().st_ctime < limit:
            path.unlink(missing_ok=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
