"""Rules for the code as a whole: imports, models, OpenAPI, queues, routes and modules."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command

from accounts.models import Organization
from openhands_site import openapi

ROOT = Path(settings.BASE_DIR)
APPS = ("accounts", "billing", "conversations", "integrations")
GLOBAL = {
    "accounts.User",
    "accounts.Organization",
    "accounts.SetupLink",
    "accounts.IdentityProvider",  # users of all organizations sign in with it
    # The following models belong to a user, who may be a member of several organizations.
    "accounts.Identity",
    "accounts.UserSession",
    "accounts.ProviderSession",
    "accounts.OfflineToken",
    "accounts.TermsAcceptance",
    "accounts.EmailChange",
    "accounts.SecondFactor",
    "accounts.RecoveryCode",
    "accounts.SetupMark",
    "accounts.SpentToken",  # a digest and a time, without an owner
    "accounts.AuditEntry",  # outlives its organization; the chain has the organization's id
    "accounts.AuditHead",
    "accounts.AuditMark",
    "accounts.AuditGap",
    "accounts.Maintenance",
    "billing.AllowedModelServer",
    "conversations.LiveManager",
}
"""Models whose rows belong to the installation and not to an organization."""
UNTIL_APPROVED = {"accounts.DeviceGrant": "device_grant_approved_for_somebody"}
"""Models with an organization only after an approval, and the constraint that enforces it."""
SOURCES = sorted(
    file
    for package in (*APPS, "compat", "lib", "openhands_site")
    for file in (ROOT / package).rglob("*.py")
    if "migrations" not in file.parts
)


def relative_name(file):
    return str(file.relative_to(ROOT))


def test_imports_keep_the_contracts_of_pyproject():
    program = Path(sys.executable).with_name("lint-imports")

    result = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "model",
    [m for app in APPS for m in apps.get_app_config(app).get_models()],
    ids=lambda m: m._meta.label,
)
def test_model_has_an_organization_unless_it_is_global(model):
    fields = {field.name: field for field in model._meta.concrete_fields}
    field = fields.get("organization")

    if model._meta.label in GLOBAL:
        assert field is None
    else:
        assert field is not None
        assert field.related_model is Organization
        constraints = {constraint.name for constraint in model._meta.constraints}
        assert not field.null or UNTIL_APPROVED.get(model._meta.label) in constraints


def test_openapi_file_is_up_to_date():
    # `manage.py openapi --write` updates the file. A warning of the generator fails this test too.
    call_command("openapi", check=True)


def test_openapi_describes_every_api_route():
    import yaml

    from tests.architecture.routes import list_http_routes

    document = yaml.safe_load(openapi.document())
    described = {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }
    routes = {route.row for route in list_http_routes() if route.is_drf}
    routes -= {"GET /api/v1/schema", "GET /api/v1/docs"}

    assert described == routes


def test_migrations_are_complete(db):
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def list_queued_names():
    for file in SOURCES:
        if file.name == "queue.py":
            for match in re.finditer(r'configure_task\(\s*"([^"]+)"', file.read_text()):
                yield relative_name(file), match[1]


QUEUES_AGAIN = "openhands_site/operating/job_queues.py"
"""The module that queues a job again under the job's own name, so it needs no literal name."""


def test_tasks_are_deferred_only_in_queue_modules_by_a_literal_name():
    # The next test finds the names by their literals.
    for file in SOURCES:
        if relative_name(file) == QUEUES_AGAIN:
            continue
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        defers = [c for c in calls if getattr(c.func, "attr", "") == "configure_task"]
        if file.name == "queue.py":
            literal = [c for c in defers if c.args and isinstance(c.args[0], ast.Constant)]
            assert literal == defers
        else:
            assert not defers, f"{relative_name(file)} defers a task; move it to queue.py"


def test_every_queued_task_exists():
    from procrastinate.contrib.django import app

    names = list(list_queued_names())

    assert names
    app.perform_import_paths()
    assert not [pair for pair in names if pair[1] not in app.tasks]


ADDRESS = re.compile(r"\^?/?api/\S|\^?[/(]+(alive|ready|metrics|oidc|oauth)\b")
CHECKED = {"openhands_site/settings.py", "billing/gateway/server_kinds.py"}
"""settings.py lists paths in SECURE_REDIRECT_EXEMPT, because it cannot import the URL conf. tests/site/test_routes.py
compares them with the routes. server_kinds.py lists paths of other servers."""


def find_listed_paths(tree):
    """Yield the line and text of each path of a route in a collection or a dictionary's keys."""
    for node in ast.walk(tree):
        items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        for item in items:
            for part in ast.walk(item) if item else ():
                if isinstance(part, ast.Constant) and ADDRESS.match(str(part.value)):
                    yield part.lineno, part.value


def test_no_module_lists_paths_of_routes():
    # A view declares how its route behaves (lib.routes.RouteFacts), and lib.routes.url_pattern finds the routes.
    listed = {
        (relative_name(file), *place)
        for file in SOURCES
        if file.name != "urls.py" and relative_name(file) not in CHECKED
        for place in find_listed_paths(ast.parse(file.read_text()))
    }

    assert listed == set()


@pytest.mark.parametrize("file", SOURCES, ids=relative_name)
class TestFile:
    def test_module_has_a_docstring(self, file):
        tree = ast.parse(file.read_text())
        assert not tree.body or ast.get_docstring(tree), (
            "add a docstring that names the contents of the module"
        )

    def test_module_name_is_not_generic(self, file):
        assert not {"utils", "util", "helpers", "helper", "common", "misc"} & {
            part.removesuffix(".py") for part in file.relative_to(ROOT).parts
        }

    def test_module_reads_settings_through_django(self, file):
        if relative_name(file).startswith("openhands_site/settings"):
            return
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        assert "openhands_site.settings" not in names

    def test_public_functions_of_services_have_docstrings(self, file):
        if "services" not in relative_name(file):
            return
        tree = ast.parse(file.read_text())
        undocumented = [
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
        assert not undocumented


UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
"""Modules that run code which stands in their input."""


def test_no_code_unpickles():
    found = [
        f"{relative_name(file)}:{node.lineno}"
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Import) and {name.name for name in node.names} & UNPICKLERS)
        or (isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS)
    ]

    assert found == []
    assert settings.CACHES["default"]["OPTIONS"]["serializer"] == "lib.cache.JSONSerializer"
    # The channel layer's messages and sessions have serializers without code.
    assert "serializer_format" not in settings.CHANNEL_LAYERS["default"]["CONFIG"]
