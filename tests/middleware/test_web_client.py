"""A single-page web client in a folder: the paths that serve its files, and the paths that stay with this server."""

import base64
import hashlib

import pytest

INLINE = "document.title = 'client'"
PAGE = (
    f"<!doctype html><html><script>{INLINE}</script><script src='/assets/app-1.js'></script></html>"
)


@pytest.fixture
def folder(tmp_path, settings):
    root = tmp_path / "client"
    (root / "assets").mkdir(parents=True)
    (root / "locales" / "en").mkdir(parents=True)
    (root / "index.html").write_text(PAGE)
    (root / "assets" / "app-1.js").write_text("1")
    (root / "locales" / "en" / "translation.json").write_text("{}")
    (root / "favicon.ico").write_bytes(b"icon")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    settings.WEB_CLIENT_DIR = root
    return root


def read_body(response):
    return b"".join(response) if response.streaming else response.content


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/accept-tos",
            "/settings",
            "/settings/mcp",
            "/settings/api-keys",
            "/microagent-management",
        ),
        *("/conversations/0123", "/some/unknown/address", "/conversations/task-1"),
    ],
)
def test_client_routes_and_unknown_paths_serve_the_clients_page(client, db, folder, path):
    response = client.get(path)

    digest = base64.b64encode(hashlib.sha256(INLINE.encode()).digest()).decode()
    policy = response.headers["Content-Security-Policy"]
    assert (response.status_code, read_body(response).decode()) == (200, PAGE)
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "connect-src 'self';" in policy
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "content_type", "cache_control"),
    [
        ("/assets/app-1.js", "text/javascript", "public, max-age=31536000, immutable"),
        ("/locales/en/translation.json", "application/json", "no-cache"),
        ("/favicon.ico", "image/vnd.microsoft.icon", "no-cache"),
    ],
)
def test_client_file_has_its_type_and_cache_lifetime(
    client, db, folder, path, content_type, cache_control
):
    response = client.get(path)

    assert response.status_code == 200
    assert read_body(response) == (folder / path[1:]).read_bytes()
    assert (response.headers["Content-Type"], response.headers["Cache-Control"]) == (
        content_type,
        cache_control,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/assets/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/link.txt",
        "//secret.txt",
    ],
)
def test_path_outside_the_folder_is_not_served(client, db, folder, path):
    response = client.get(path)

    assert response.status_code in (200, 404)
    assert b"secret" not in read_body(response)


@pytest.mark.parametrize(
    "path",
    ["/api/nothing", "/api/v1/nothing", "/assets/gone.js", "/feedback/nothing", "/static/nothing"],
)
def test_unknown_api_or_asset_path_is_not_found(client, db, folder, path):
    assert client.get(path).status_code == 404


def test_probes_sign_in_and_api_stay_with_this_server(client, db, folder):
    assert client.get("/alive").json() == {"status": "ok"}
    assert client.get("/sign-in").status_code == 200
    assert client.get("/api/conversations").status_code == 401
    assert client.post("/settings").status_code != 200


def test_native_pages_move_to_the_desk_prefix_with_their_links(client, alice, folder):
    anonymous = client.get("/desk/settings")
    client.force_login(alice)
    home, page = client.get("/desk"), client.get("/desk/settings")

    assert anonymous.headers["Location"] == "/desk/sign-in?next=/desk/settings"
    assert (home.status_code, page.status_code) == (200, 200)
    assert b'href="/desk/settings/api-keys"' in page.content
    assert b'href="/static/' in page.content
    assert client.get("/settings").content.decode() == PAGE


def test_without_a_folder_native_pages_keep_their_paths(client, alice):
    client.force_login(alice)
    home = client.get("/")

    assert home.status_code == 200
    assert b"<script>" not in home.content
    assert client.get("/desk").status_code == 404


def test_folder_without_index_html_raises(client, db, tmp_path, settings):
    settings.WEB_CLIENT_DIR = tmp_path

    with pytest.raises(FileNotFoundError, match=r"index\.html"):
        client.get("/")
