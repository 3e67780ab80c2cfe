"""Requests that schemathesis generates from the OpenAPI document, sent as four different callers.

The quick suite sends one case per operation and caller, ``make test-slow`` five thousand. Every case is rolled back,
so each starts from the same rows. Half of the cases use ids of existing rows. Endless responses are left out.
"""

import os
from collections import Counter
from uuid import UUID

import hypothesis
import orjson
import pytest
import schemathesis
from django.core import signals
from django.core.handlers.wsgi import WSGIHandler
from django.db import close_old_connections, transaction
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from accounts import services
from lib.api import JSONRenderer
from openhands_site import openapi
from tests.architecture import world
from tests.factories.accounts import UserFactory
from tests.fakes.stack import figure

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CALLERS = ("full key", "service account", "stranger", "anonymous")
ENDLESS = ("/stream", "/stream-start", "/api/v1/schema", "/api/v1/docs")
OUTSIDE = ("PUT /api/v1/provider-tokens/{provider}", "POST /api/add-git-providers")
"""These routes call a Git host and respond with 503 without one. The tests of integrations have a fake host."""
IDENTITY = {"Accept-Encoding": "identity"}
"""Schemathesis offers gzip, but does not decompress the responses of an application that it calls without a server."""
CASES = int(os.environ.get("SCHEMATHESIS_CASES", "5000"))
pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _keep_transaction():
    """Keep the test's transaction open at the end of a request, like Django's test client."""
    signals.request_started.disconnect(close_old_connections)
    signals.request_finished.disconnect(close_old_connections)
    yield
    signals.request_started.connect(close_old_connections)
    signals.request_finished.connect(close_old_connections)


@pytest.fixture
def callers():
    """The headers of each caller, and the existing rows."""
    existing = world.build()
    _, token = services.issue_api_key(user=UserFactory(), name="stranger")
    headers = existing.headers | {"stranger": {"Authorization": f"Bearer {token}"}}
    return {name: headers[name] for name in CALLERS}, existing


class Tally:
    """Counts of cases and statuses, and each kind of failure once, with the command that repeats it."""

    def __init__(self):
        self.cases, self.statuses, self.failures = 0, Counter(), {}

    def note(self, operation, case, failure):
        for single in failure.exceptions if isinstance(failure, FailureGroup) else [failure]:
            key = (operation.label, type(single).__name__, str(single).splitlines()[0])
            self.failures.setdefault(key, f"{single}\n{case.as_curl_command()}")

    def report(self):
        return "\n\n".join(f"{key}\n{text[:900]}" for key, text in sorted(self.failures.items()))


def operations():
    document = orjson.loads(openapi.document("json"))
    schema = schemathesis.openapi.from_dict(document)
    schema.app = WSGIHandler()
    schema.config.update(base_url="http://testserver")
    results = [result.ok() for result in schema.get_all_operations()]
    return [
        operation
        for operation in results
        if not operation.path.endswith(ENDLESS) and operation.label not in OUTSIDE
    ]


def send_cases(callers, per_caller):
    headers_of, existing = callers
    tally = Tally()
    for operation in operations():
        for headers in headers_of.values():
            send_operation_cases(operation, headers, existing, tally, per_caller)
    return tally


def send_operation_cases(operation, headers, existing, tally, count):
    @hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(), use_existing=hypothesis.strategies.booleans())
    def send_case(case, use_existing):
        tally.cases += 1
        if use_existing:
            use_existing_ids(case, existing)
        with transaction.atomic():
            try:
                response = case.call(headers=headers | IDENTITY)
                tally.statuses[response.status_code] += 1
                case.validate_response(response, checks=CHECKS)
            except (Failure, FailureGroup) as failure:
                tally.note(operation, case, failure)
            finally:
                transaction.set_rollback(True)

    send_case()


def use_existing_ids(case, existing):
    """Replace generated ids in the path with ids of existing rows."""
    kind = case.operation.path.removeprefix("/api/v1/").partition("/")[0]
    for name, value in (case.path_parameters or {}).items():
        if name in existing.own:
            case.path_parameters[name] = str(existing.own[name])
        elif name in ("id", "conversation_id") or is_uuid(value):
            case.path_parameters[name] = str(existing.own.get(kind, existing.shared.pk))


def is_uuid(value):
    try:
        return bool(UUID(str(value)))
    except ValueError:
        return False


def test_one_generated_case_per_operation_and_caller_conforms(callers):
    tally = send_cases(callers, 1)

    assert not tally.failures, tally.report()
    assert len(tally.statuses) > 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thousands_of_generated_cases_conform(callers):
    number = len(operations()) * len(CALLERS)
    tally = send_cases(callers, -(-CASES // number))

    figure("schemathesis", cases=tally.cases, callers=len(CALLERS), failures=len(tally.failures), statuses=dict(tally.statuses))  # fmt: skip
    assert tally.cases >= CASES * 0.9
    assert not tally.failures, tally.report()


def test_response_that_violates_the_document_is_reported(callers, monkeypatch):
    """A control of the test itself: the checks fail for a body that the document does not allow."""
    monkeypatch.setattr(JSONRenderer, "render", lambda *_, **__: b'{"items": 7}')
    only = [
        operation for operation in operations() if operation.label == "GET /api/v1/conversations"
    ]
    monkeypatch.setattr("tests.api.test_schemathesis.operations", lambda: only)

    assert send_cases(callers, 3).failures
