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


def test_document_is_json_for_those_who_ask(client, db):
    response = client.get("/api/v1/schema", headers={"Accept": "application/vnd.oai.openapi+json"})

    assert response.json()["paths"].keys() == yaml.safe_load(openapi.document())["paths"].keys()


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load(openapi.document())


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_tells_its_problems(document):
    for row, operation in operations(document):
        assert {"400", "429", "503"} <= operation["responses"].keys(), row
        is_public = {} in operation.get("security", [{}])
        # A public one may have a 401 of its own: sandboxes sign by a key of theirs.
        asks = operation["responses"].get("401", {}).get("$ref", "").endswith("/NotSignedIn")
        assert not (is_public and asks), row
        assert is_public or "401" in operation["responses"], row
        assert not ("{" in row and "404" not in operation["responses"]), row


def test_problems_have_one_shape(document):
    for answer in document["components"]["responses"].values():
        assert answer["content"]["application/problem+json"]["schema"] == {
            "$ref": "#/components/schemas/Problem"
        }


def test_a_real_problem_fits_its_schema(document, api):
    schema = document["components"]["schemas"]["Problem"]
    body = api.post("/api/v1/api-keys", {}, format="json").json()

    assert set(schema["required"]) <= body.keys() <= schema["properties"].keys()


def test_operation_names_are_unique(document):
    names = [operation["operationId"] for _, operation in operations(document)]

    assert len(names) == len(set(names))


def test_page_runs_only_files_of_ours(client, db):
    page = client.get("/api/v1/docs")
    text = page.content.decode()
    scripts = re.findall(r'<script src="([^"]+)"', text)

    assert page.status_code == 200
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert '<html lang="en">' in text
    assert not re.search(r"<script>|\son\w+=|https?://", text)
    assert [script for script in scripts if script.startswith("/")] == scripts
    for address in [*scripts, *re.findall(r'<link[^>]+href="([^"]+)"', text)]:
        answer = client.get(address.replace("&amp;", "&"))
        answer.close()
        assert answer.status_code == 200, address


def test_our_own_routes_come_before_those_for_other_clients(document):
    named = [tag["name"] for tag in document["tags"]]
    used = {tag for _, operation in operations(document) for tag in operation["tags"]}

    assert (named[0], named[-1]) == ("conversations", "compat")
    assert set(named) == used


def test_script_of_the_page_names_the_document_and_the_csrf_header(client, db):
    script = client.get("/api/v1/docs?script=")

    assert script.headers["Content-Type"].startswith("application/javascript")
    assert "schema" in script.content.decode()
    assert "X-XSRF-TOKEN" in script.content.decode()


class TestCommand:
    def test_check_refuses_an_old_file(self, tmp_path):
        file = tmp_path / "openapi.yaml"
        file.write_text("openapi: 3.0.3\n")

        with pytest.raises(CommandError, match="openapi --write"):
            call_command("openapi", check=True, file=file)

    def test_write_makes_check_pass(self, tmp_path):
        file = tmp_path / "openapi.yaml"

        call_command("openapi", write=True, file=file)

        call_command("openapi", check=True, file=file)
