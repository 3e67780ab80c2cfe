"""Static files under hashed names: what pages refer to, how files are cached, and what happens without a manifest."""

import posixpath
import re
import shutil
import threading
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.test import Client

from conversations import services
from openhands_site import static_files

FOREVER = "max-age=315360000, public, immutable"
PLAIN = re.compile(r"""/static/[^"'\s)]+""")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of the prepared files, which takes most of a second."""
    from django.test import override_settings

    folder = tmp_path_factory.mktemp("static")
    with override_settings(STATIC_ROOT=folder):
        assert static_files.prepare()
    return folder


@pytest.fixture
def hashed(prepared, settings):
    """Let the server use the prepared files. Django loads the storage again when the setting changes."""
    settings.STATIC_ROOT = prepared
    return prepared


@pytest.fixture
def copied(prepared, settings, tmp_path):
    """Let the server use a copy of the prepared files, which a test may change."""
    settings.STATIC_ROOT = tmp_path / "static"
    shutil.copytree(prepared, settings.STATIC_ROOT)
    return settings.STATIC_ROOT


def fetch(path, client=None, **headers):
    """Return the response and its body."""
    response = (client or Client()).get(path, headers=headers)
    body = b"".join(response) if response.streaming else response.content
    # `response.close()` would also close the connection to the database.
    for close in response._resource_closers:
        close()
    return response, body


@pytest.fixture
def pages(alice):
    """The HTML of pages of all parts of the site, by path."""
    alice.is_staff = alice.is_superuser = True
    alice.save()
    conversation = services.create_conversation(user=alice)
    anonymous, client = Client(), Client()
    client.force_login(alice)
    paths = [
        *("/", "/settings", "/settings/model", "/settings/api-keys", "/api/v1/docs", "/nothing"),
        *(f"/conversations/{conversation.pk}{query}" for query in ("", "?plain=1", "/details")),
        *("/admin/", "/admin/accounts/user/", "/admin/accounts/user/add/"),
    ]
    found = {path: fetch(path, client)[1].decode() for path in paths}
    return found | {"/sign-in": fetch("/sign-in", anonymous)[1].decode()}


class TestPrepared:
    def test_pages_name_only_hashed_files_that_exist(self, hashed, pages):
        client, seen = Client(), set()

        for path, html in pages.items():
            urls = set(PLAIN.findall(html))
            assert len(urls) >= 4, path
            for url in urls:
                assert static_files.HASHED.fullmatch(url.partition("#")[0]), (path, url)
            seen |= {url.partition("#")[0] for url in urls}

        for url in seen:
            response, _ = fetch(url, client)
            assert (response.status_code, response.headers["Cache-Control"]) == (200, FOREVER), url

    def test_scripts_and_style_sheets_refer_to_hashed_files(self, hashed):
        client = Client()
        names = [
            name for name in static_files.find_sources() if re.match(r"(js|css|admin/css)/", name)
        ]
        assert {"js/conversation.js", "css/base.css", "admin/css/base.css"} <= set(names)

        for name in names:
            url = staticfiles_storage.url(name)
            text = fetch(url, client)[1].decode()
            for found in re.findall(
                r"""(?:from |^import )"(\.[^"]+)";|url\(["']?([^"')#]+)""", text, re.MULTILINE
            ):
                target = found[0] or found[1]
                if re.match(r"data:|%", target):
                    continue
                address = posixpath.normpath(posixpath.join(posixpath.dirname(url), target))
                assert static_files.HASHED.fullmatch(address), (name, target)
                assert fetch(address, client)[0].status_code == 200, (name, target)

    def test_text_is_sent_compressed_to_clients_that_accept_gzip(self, hashed):
        url = staticfiles_storage.url("css/base.css")

        plain, body = fetch(url)
        compressed, small = fetch(url, **{"Accept-Encoding": "gzip, br"})

        assert "Content-Encoding" not in plain.headers
        assert compressed.headers["Content-Encoding"] == "gzip"
        assert len(small) < len(body) / 3
        assert {plain.headers["Vary"], compressed.headers["Vary"]} == {"Accept-Encoding"}

    def test_second_preparation_writes_nothing(self, hashed):
        def state():
            return {path: path.stat().st_mtime_ns for path in hashed.rglob("*")}

        before = state()

        assert static_files.prepare()
        assert state() == before

    def test_hashed_name_of_another_version_returns_the_file_of_this_one(self, hashed):
        current = fetch(staticfiles_storage.url("js/common.js"))[1]

        response, body = fetch("/static/js/common.0123456789ab.js")

        assert (response.status_code, body) == (200, current)
        assert response.headers["Cache-Control"] == "no-cache"
        assert fetch("/static/js/nothing.0123456789ab.js")[0].status_code == 404

    def test_file_that_a_newer_version_removed_is_read_from_its_source(self, copied):
        client, url = Client(), staticfiles_storage.url("css/base.css")
        assert fetch(url, client)[0].headers["Cache-Control"] == FOREVER

        (copied / url.removeprefix("/static/")).unlink()
        response, body = fetch(url, client)

        assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-cache")
        assert body == Path(finders.find("css/base.css")).read_bytes()

    def test_other_sources_get_names_of_their_own_and_old_files_stay(self, copied, monkeypatch):
        before = set(copied.rglob("*"))
        old = copied / "css" / "ancient.0123456789ab.css"
        old.write_text("")
        monkeypatch.setattr(static_files, "_digest", lambda: "another")

        assert static_files.prepare()
        assert before | {old} < set(copied.rglob("*"))

        monkeypatch.setattr(static_files, "_digest", lambda: "third")
        monkeypatch.setattr(static_files, "KEPT_SECONDS", -60)
        assert static_files.prepare()
        assert not old.exists()

    def test_two_servers_may_prepare_the_same_folder_at_once(self, settings, tmp_path):
        settings.STATIC_ROOT = tmp_path / "static"
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(static_files.prepare()))
            for _ in range(2)
        ]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert results == [True, True]
        assert len(list(settings.STATIC_ROOT.glob("manifest.*.json"))) == 1
        assert not list(settings.STATIC_ROOT.glob(".new-*"))


class TestNotPrepared:
    @pytest.fixture(params=["no folder", "another version", "a file in its place"])
    def missing(self, request, prepared, settings, tmp_path):
        """A ``STATIC_ROOT`` that this version cannot use."""
        settings.STATIC_ROOT = tmp_path / "static"
        if request.param == "another version":
            settings.STATIC_ROOT.mkdir()
            manifest = next(prepared.glob("manifest.*.json"))
            shutil.copy(manifest, settings.STATIC_ROOT / "manifest.0123456789abcdef.json")
        elif request.param == "a file in its place":
            settings.STATIC_ROOT.write_text("")

    def test_pages_use_plain_names_that_are_cached_shortly(self, missing, pages):
        client = Client()

        for path, html in pages.items():
            urls = {url.partition("#")[0] for url in PLAIN.findall(html)}
            assert len(urls) >= 4, path
            for url in urls:
                response, _ = fetch(url, client)
                assert response.status_code == 200, (path, url)
                assert response.headers["Cache-Control"] == "max-age=60, public", url

    def test_folder_that_cannot_be_written_is_reported(self, settings, tmp_path, caplog):
        settings.STATIC_ROOT = tmp_path / "file" / "static"
        (tmp_path / "file").write_text("")

        assert static_files.prepare() is False
        assert f"could not be written to {settings.STATIC_ROOT}" in caplog.text

    def test_interrupted_preparation_is_repeated(self, settings, tmp_path, monkeypatch):
        settings.STATIC_ROOT = tmp_path / "static"
        with monkeypatch.context() as patch:
            patch.setattr(static_files.HashedFiles, "compress_files", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                static_files.prepare()

        assert not list(settings.STATIC_ROOT.glob("*/*"))
        assert static_files.prepare()

    def test_name_outside_the_manifest_keeps_its_plain_url(self, hashed):
        assert staticfiles_storage.url("js/nothing.js") == "/static/js/nothing.js"
        assert staticfiles_storage.url("rest_framework/css/default.css").endswith("/default.css")

    def test_debug_mode_serves_the_sources(self, hashed, settings):
        settings.DEBUG = True

        assert static_files.prepare() is False
        assert staticfiles_storage.url("css/base.css") == "/static/css/base.css"


def test_test_processes_do_not_prepare_files(settings):
    assert not settings.STATIC_ROOT.exists()
