"""The folder of a single-page client on our origin: what is its, what stays ours."""

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


def body(response):
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
def test_its_routes_and_unknown_addresses_are_its_page(client, db, folder, path):
    answer = client.get(path)

    digest = base64.b64encode(hashlib.sha256(INLINE.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert (answer.status_code, body(answer).decode()) == (200, PAGE)
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "connect-src 'self';" in policy
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "kind", "kept"),
    [
        ("/assets/app-1.js", "text/javascript", "public, max-age=31536000, immutable"),
        ("/locales/en/translation.json", "application/json", "no-cache"),
        ("/favicon.ico", "image/vnd.microsoft.icon", "no-cache"),
    ],
)
def test_its_files(client, db, folder, path, kind, kept):
    answer = client.get(path)

    assert answer.status_code == 200
    assert body(answer) == (folder / path[1:]).read_bytes()
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == (kind, kept)


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
def test_no_address_reaches_past_its_folder(client, db, folder, path):
    answer = client.get(path)

    assert b"secret" not in body(answer)


@pytest.mark.parametrize(
    "path",
    ["/api/nothing", "/api/v1/nothing", "/assets/gone.js", "/feedback/nothing", "/static/nothing"],
)
def test_what_is_not_a_page_stays_not_found(client, db, folder, path):
    assert client.get(path).status_code == 404


def test_ours_stay_where_the_client_has_none(client, db, folder):
    assert client.get("/alive").json() == {"status": "ok"}
    assert client.get("/sign-in").status_code == 200
    assert client.get("/api/conversations").status_code == 401
    assert client.post("/settings").status_code != 200


def test_our_own_pages_move_below_the_desk_with_their_links(client, alice, folder):
    stranger = client.get("/desk/settings")
    client.force_login(alice)
    home, page = client.get("/desk"), client.get("/desk/settings")

    assert stranger.headers["Location"] == "/desk/sign-in?next=/desk/settings"
    assert (home.status_code, page.status_code) == (200, 200)
    assert b'href="/desk/settings/api-keys"' in page.content
    assert b'href="/static/' in page.content
    assert client.get("/settings").content.decode() == PAGE


def test_without_a_folder_nothing_changes(client, alice):
    client.force_login(alice)

    assert b"<script>" not in client.get("/").content
    assert client.get("/desk").status_code == 404


def test_a_folder_without_a_page_is_told(client, db, tmp_path, settings):
    settings.WEB_CLIENT_DIR = tmp_path

    with pytest.raises(FileNotFoundError, match=r"index\.html"):
        client.get("/")
