"""Rules about the code as a whole."""

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
    "accounts.IdentityProvider",  # people of any organization sign in with it
    "accounts.Identity",  # belongs to a person, who may be in many organizations; so do these:
    "accounts.UserSession",
    "accounts.ProviderSession",
    "accounts.OfflineToken",
    "accounts.TermsAcceptance",
    "accounts.EmailChange",
    "accounts.SecondFactor",
    "accounts.RecoveryCode",
    "accounts.SpentToken",  # a digest and a time, nobody's
    "accounts.AuditEntry",  # outlives its organization, whose id names its chain
    "accounts.AuditHead",
    "accounts.Maintenance",
    "conversations.LiveManager",
}
"""What belongs to the installation and not to a tenant."""
UNTIL_APPROVED = {"accounts.DeviceGrant": "device_grant_approved_for_somebody"}
"""What names its organization once somebody approves it, and the constraint that says so."""
SOURCES = sorted(
    file
    for package in (*APPS, "compat", "lib", "openhands_site")
    for file in (ROOT / package).rglob("*.py")
    if "migrations" not in file.parts
)


def name_of(file):
    return str(file.relative_to(ROOT))


def test_imports_go_one_way():
    """The contracts of pyproject.toml."""
    program = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "model",
    [m for app in APPS for m in apps.get_app_config(app).get_models()],
    ids=lambda m: m._meta.label,
)
def test_what_belongs_to_a_customer_names_its_organization(model):
    fields = {field.name: field for field in model._meta.concrete_fields}
    field = fields.get("organization")

    if model._meta.label in GLOBAL:
        assert field is None
    else:
        assert field is not None
        assert field.related_model is Organization
        constraints = {constraint.name for constraint in model._meta.constraints}
        assert not field.null or UNTIL_APPROVED.get(model._meta.label) in constraints


def test_openapi_equals_the_code():
    """`manage.py openapi --write` makes it so; warnings of the generator fail here too."""
    call_command("openapi", check=True)


def test_openapi_describes_every_api_route():
    import yaml

    from tests.architecture.routes import http_routes

    document = yaml.safe_load(openapi.document())
    described = {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }
    routes = {route.row for route in http_routes() if route.is_drf}
    routes -= {"GET /api/v1/schema", "GET /api/v1/docs"}

    assert described == routes


def test_migrations_are_complete(db):
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def queued_names():
    for file in SOURCES:
        if file.name == "queue.py":
            for match in re.finditer(r'configure_task\(\s*"([^"]+)"', file.read_text()):
                yield name_of(file), match[1]


def test_queue_modules_name_their_tasks_in_one_way():
    """So that the next test sees every name."""
    for file in SOURCES:
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        defers = [c for c in calls if getattr(c.func, "attr", "") == "configure_task"]
        if file.name == "queue.py":
            literal = [c for c in defers if c.args and isinstance(c.args[0], ast.Constant)]
            assert literal == defers
        else:
            assert not defers, f"{name_of(file)} queues a task itself; queue.py does that"


def test_every_queued_task_exists():
    from procrastinate.contrib.django import app

    names = list(queued_names())

    assert names
    app.perform_import_paths()
    assert not [pair for pair in names if pair[1] not in app.tasks]


ADDRESS = re.compile(r"\^?/?api/\S|\^?[/(]+(alive|ready|metrics|oidc|oauth)\b")
CHECKED = {"openhands_site/settings.py"}
"""SECURE_REDIRECT_EXEMPT, which cannot import the URL conf; tests/site/test_routes.py compares the two."""


def listed_addresses(tree):
    """Lines and texts of the addresses of routes that stand in collections, or are keys of dictionaries."""
    for node in ast.walk(tree):
        items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        for item in items:
            for part in ast.walk(item) if item else ():
                if isinstance(part, ast.Constant) and ADDRESS.match(str(part.value)):
                    yield part.lineno, part.value


def test_no_module_lists_addresses_of_routes():
    """A view declares how its route behaves (``lib.routes.RouteFacts``); ``lib.routes.url_pattern`` finds the routes."""
    listed = {
        (name_of(file), *found)
        for file in SOURCES
        if file.name != "urls.py" and name_of(file) not in CHECKED
        for found in listed_addresses(ast.parse(file.read_text()))
    }

    assert listed == set()


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
class TestFile:
    def test_says_what_lives_in_it(self, file):
        tree = ast.parse(file.read_text())
        assert not tree.body or ast.get_docstring(tree), "a module begins with a sentence"

    def test_has_a_name_that_says_what_it_is(self, file):
        assert not {"utils", "util", "helpers", "helper", "common", "misc"} & {
            part.removesuffix(".py") for part in file.relative_to(ROOT).parts
        }

    def test_reads_settings_through_django(self, file):
        if name_of(file).startswith("openhands_site/settings"):
            return
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        assert "openhands_site.settings" not in names

    def test_public_verbs_say_what_they_do(self, file):
        """Functions of services have docstrings: units, refusals, whether repeating is safe."""
        if "services" not in name_of(file):
            return
        tree = ast.parse(file.read_text())
        bare = [
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
        assert not bare
