"""The OpenAPI document and its page."""

import re

import pytest
import yaml
from django.core.management import CommandError, call_command

from openhands_site import openapi


def test_document_is_public_yaml(client, db):
    response = client.get("/api/v1/schema")

    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("application/vnd.oai.openapi")
    assert yaml.safe_load(response.content)["openapi"].startswith("3.")


def test_document_is_json_if_the_client_accepts_json(client, db):
    response = client.get("/api/v1/schema", headers={"Accept": "application/vnd.oai.openapi+json"})

    assert response.json()["paths"].keys() == yaml.safe_load(openapi.document())["paths"].keys()


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load(openapi.document())


def list_operations(document):
    """Yield ("METHOD /path", operation) for each operation of the document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_documents_its_problem_responses(document):
    for row, operation in list_operations(document):
        assert {"400", "429", "503"} <= operation["responses"].keys(), row
        is_public = {} in operation.get("security", [{}])
        # A public operation may define its own 401: sandboxes authenticate with a key of the sandbox.
        needs_sign_in = (
            operation["responses"].get("401", {}).get("$ref", "").endswith("/NotSignedIn")
        )
        assert not (is_public and needs_sign_in), row
        assert is_public or "401" in operation["responses"], row
        assert not ("{" in row and "404" not in operation["responses"]), row


def test_problem_responses_share_one_schema(document):
    for response in document["components"]["responses"].values():
        assert response["content"]["application/problem+json"]["schema"] == {
            "$ref": "#/components/schemas/Problem"
        }


def test_returned_problem_has_the_fields_of_its_schema(document, api):
    schema = document["components"]["schemas"]["Problem"]
    body = api.post("/api/v1/api-keys", {}, format="json").json()

    assert set(schema["required"]) <= body.keys() <= schema["properties"].keys()


def test_operation_names_are_unique(document):
    names = [operation["operationId"] for _, operation in list_operations(document)]

    assert len(names) == len(set(names))


def test_documentation_page_loads_only_files_of_this_server(client, db):
    page = client.get("/api/v1/docs")
    text = page.content.decode()
    scripts = re.findall(r'<script src="([^"]+)"', text)

    assert page.status_code == 200
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert '<html lang="en">' in text
    assert not re.search(r"<script>|\son\w+=|https?://", text)
    assert [script for script in scripts if script.startswith("/")] == scripts
    for address in [*scripts, *re.findall(r'<link[^>]+href="([^"]+)"', text)]:
        response = client.get(address.replace("&amp;", "&"))
        response.close()
        assert response.status_code == 200, address


def test_tags_start_with_conversations_and_end_with_compat(document):
    listed = [tag["name"] for tag in document["tags"]]
    used = {tag for _, operation in list_operations(document) for tag in operation["tags"]}

    assert (listed[0], listed[-1]) == ("conversations", "compat")
    assert set(listed) == used


def test_page_lists_every_operation_without_a_script(client, db, document):
    page = client.get("/api/v1/docs").content.decode()
    listed = re.findall(
        r'<li><b class="\w+">(\w+)</b><code>([^<]+)</code><span>([^<]+)</span>', page
    )

    assert {f"{method} {path}" for method, path, _ in listed} == {
        row for row, _ in list_operations(document)
    }
    assert "<summary><strong>conversations</strong><small>Start, follow" in page


def test_document_of_a_version_is_cached_permanently(client, db):
    page = client.get("/api/v1/docs").content.decode()
    url = re.search(r'data-document="([^"]+)"', page)[1]

    response = client.get(url)

    assert response.json()["openapi"].startswith("3.")
    assert "immutable" in response.headers["Cache-Control"]
    for other in ("/api/v1/schema", "/api/v1/schema?version=older"):
        assert client.get(other).headers["Cache-Control"] == "public, no-cache"


@pytest.mark.parametrize("accept", ["*/*", "application/vnd.oai.openapi+json"])
def test_known_document_is_answered_with_304(client, db, accept):
    tag = client.get("/api/v1/schema", headers={"Accept": accept}).headers["ETag"]

    def ask(known):
        return client.get(
            "/api/v1/schema",
            headers={"Accept": accept, "If-None-Match": known, "Accept-Encoding": "gzip"},
        )

    assert ask(tag).status_code == 304
    assert ask('W/"another"').status_code == 200


class TestCommand:
    def test_check_fails_for_an_outdated_file(self, tmp_path):
        file = tmp_path / "openapi.yaml"
        file.write_text("openapi: 3.0.3\n")

        with pytest.raises(CommandError, match="openapi --write"):
            call_command("openapi", check=True, file=file)

    def test_check_passes_after_write(self, tmp_path):
        file = tmp_path / "openapi.yaml"

        call_command("openapi", write=True, file=file)

        call_command("openapi", check=True, file=file)
