"""The limits of requests that wait for sandboxes in one web process."""

from contextlib import ExitStack
from uuid import uuid4

import pytest

from conversations.models import Sandbox
from conversations.services import engine_requests
from conversations.services.engine_requests import SandboxBusy, wait_for_sandbox
from openhands_site.serving.threads import WAITING_THREADS


def make_sandbox(organization_id=None):
    return Sandbox(organization_id=organization_id or uuid4())


def wait_for(stack, sandbox, times):
    for _ in range(times):
        stack.enter_context(wait_for_sandbox(sandbox))


def test_request_beyond_limit_of_sandbox_is_refused_and_another_sandbox_is_reached():
    sandbox = make_sandbox()
    with ExitStack() as stack:
        wait_for(stack, sandbox, engine_requests.PER_SANDBOX)

        with pytest.raises(SandboxBusy) as refusal, wait_for_sandbox(sandbox):
            pass

        assert refusal.value.extra == {"retry_after": engine_requests.RETRY_SECONDS}
        wait_for(stack, make_sandbox(sandbox.organization_id), 1)


def test_request_beyond_limit_of_organization_is_refused_and_another_organization_is_served():
    organization_id = uuid4()
    with ExitStack() as stack:
        for _ in range(engine_requests.PER_ORGANIZATION):
            wait_for(stack, make_sandbox(organization_id), 1)

        with pytest.raises(SandboxBusy), wait_for_sandbox(make_sandbox(organization_id)):
            pass
        wait_for(stack, make_sandbox(), 1)


def test_requests_never_use_more_than_the_additional_threads_of_the_process():
    assert engine_requests.PER_PROCESS <= WAITING_THREADS
    with ExitStack() as stack:
        for _ in range(engine_requests.PER_PROCESS):
            wait_for(stack, make_sandbox(), 1)

        with pytest.raises(SandboxBusy), wait_for_sandbox(make_sandbox()):
            pass


def test_place_is_free_again_after_an_error():
    sandbox = make_sandbox()
    for _ in range(engine_requests.PER_SANDBOX + 1):
        with pytest.raises(ValueError, match="trouble"), wait_for_sandbox(sandbox):
            raise ValueError("trouble")

    assert not engine_requests._waiting
