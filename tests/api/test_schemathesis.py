"""The OpenAPI document taken at its word: schemathesis makes requests of it, as four different callers.

The quick suite makes a case an operation and caller, ``make test-slow`` five thousand in all. Every case is rolled
back, so each meets the same world, and half of them name things that are there. What never ends is left out.
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
LEFT_OUT = ("/stream", "/stream-start", "/api/v1/schema", "/api/v1/docs")
OUTSIDE = ("PUT /api/v1/provider-tokens/{provider}", "POST /api/add-git-providers")
"""These ask a Git host, and 503 is the right answer where there is none; their own tests have a host."""
CASES = int(os.environ.get("SCHEMATHESIS_CASES", "5000"))
pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _one_connection():
    """What Django's own test client does: the end of a request does not end the test's transaction."""
    signals.request_started.disconnect(close_old_connections)
    signals.request_finished.disconnect(close_old_connections)
    yield
    signals.request_started.connect(close_old_connections)
    signals.request_finished.connect(close_old_connections)


@pytest.fixture
def callers():
    """Headers by caller, and the ids of things that are there by the name of their parameter."""
    found = world.build()
    _, token = services.issue_api_key(user=UserFactory(), name="stranger")
    headers = found.headers | {"stranger": {"Authorization": f"Bearer {token}"}}
    return {name: headers[name] for name in CALLERS}, found


class Tally:
    """What happened: cases, statuses, and each kind of failure once, with a way to see it again."""

    def __init__(self):
        self.cases, self.statuses, self.failures = 0, Counter(), {}

    def note(self, operation, case, found):
        for failure in found.exceptions if isinstance(found, FailureGroup) else [found]:
            key = (operation.label, type(failure).__name__, str(failure).splitlines()[0])
            self.failures.setdefault(key, f"{failure}\n{case.as_curl_command()}")

    def report(self):
        return "\n\n".join(f"{key}\n{text[:900]}" for key, text in sorted(self.failures.items()))


def operations():
    document = orjson.loads(openapi.document("json"))
    schema = schemathesis.openapi.from_dict(document)
    schema.app = WSGIHandler()
    schema.config.update(base_url="http://testserver")
    found = [result.ok() for result in schema.get_all_operations()]
    return [one for one in found if not one.path.endswith(LEFT_OUT) and one.label not in OUTSIDE]


def play(callers, per_caller):
    headers_of, found = callers
    tally = Tally()
    for operation in operations():
        for headers in headers_of.values():
            play_one(operation, headers, found, tally, per_caller)
    return tally


def play_one(operation, headers, found, tally, number):
    @hypothesis.settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(), is_there=hypothesis.strategies.booleans())
    def one(case, is_there):
        tally.cases += 1
        if is_there:
            name_real_things(case, found)
        with transaction.atomic():
            try:
                response = case.call(headers=headers)
                tally.statuses[response.status_code] += 1
                case.validate_response(response, checks=CHECKS)
            except (Failure, FailureGroup) as failure:
                tally.note(operation, case, failure)
            finally:
                transaction.set_rollback(True)

    one()


def name_real_things(case, found):
    """Ids of the world in place of made-up ones."""
    kind = case.operation.path.removeprefix("/api/v1/").partition("/")[0]
    for name, value in (case.path_parameters or {}).items():
        if name in found.own:
            case.path_parameters[name] = str(found.own[name])
        elif name in ("id", "conversation_id") or is_uuid(value):
            case.path_parameters[name] = str(found.own.get(kind, found.shared.pk))


def is_uuid(value):
    try:
        return bool(UUID(str(value)))
    except ValueError:
        return False


def test_one_generated_case_per_operation_and_caller_conforms(callers):
    tally = play(callers, 1)

    assert not tally.failures, tally.report()
    assert len(tally.statuses) > 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thousands_of_generated_cases_conform(callers):
    number = len(operations()) * len(CALLERS)
    tally = play(callers, -(-CASES // number))

    figure("schemathesis", cases=tally.cases, callers=len(CALLERS), failures=len(tally.failures), statuses=dict(tally.statuses))  # fmt: skip
    assert tally.cases >= CASES * 0.9
    assert not tally.failures, tally.report()


def test_response_that_violates_the_document_is_reported(callers, monkeypatch):
    """The control: an answer that is not as the document has it is a failure here."""
    monkeypatch.setattr(JSONRenderer, "render", lambda *_, **__: b'{"items": 7}')
    only = [one for one in operations() if one.label == "GET /api/v1/conversations"]
    monkeypatch.setattr("tests.api.test_schemathesis.operations", lambda: only)

    assert play(callers, 3).failures
