"""Maintenance mode, which rejects the requests of all users except staff."""

import io
import time

import pytest
from django.core.management import call_command
from django.test import Client

from accounts.models import AuditEntry, Maintenance
from accounts.services import maintenance
from tests.factories.accounts import UserFactory


@pytest.fixture
def maintenance_on(db):
    maintenance.set_maintenance(is_on=True, sentence="Back at noon.", retry_after=90)


def test_api_request_gets_a_503_problem(maintenance_on, api):
    response = api.get("/api/v1/users/me")

    assert (response.status_code, response.json()["code"]) == (503, "maintenance")
    assert response.json()["detail"] == "Back at noon."
    assert response.headers["Retry-After"] == "90"
    assert response.headers["Content-Type"] == "application/problem+json"


def test_page_request_gets_a_503_page(maintenance_on, client, alice):
    client.force_login(alice)

    response = client.get("/")

    assert (response.status_code, response.headers["Retry-After"]) == (503, "90")
    assert "Back at noon." in response.content.decode()


def test_signed_in_staff_are_served(maintenance_on, client):
    client.force_login(UserFactory(is_staff=True))

    assert client.get("/settings").status_code == 200
    assert client.get("/api/v1/users/me").status_code == 200


def test_api_key_of_staff_is_rejected(maintenance_on):
    from tests.conftest import key_client

    assert key_client(UserFactory(is_staff=True)).get("/api/v1/users/me").status_code == 503


@pytest.mark.parametrize("path", ["/alive", "/sign-in", "/api/v1/auth/csrf", "/admin/login/"])
def test_probes_and_sign_in_stay_open(maintenance_on, path):
    assert Client().get(path).status_code == 200


def test_model_gateway_stays_open_for_running_agents(maintenance_on, client):
    assert client.get("/api/llm/v1/models").status_code == 401


def test_changing_request_is_rejected_before_it_writes(maintenance_on, api, alice):
    assert api.post("/api/v1/api-keys", {"name": "x"}, format="json").status_code == 503
    assert not alice.api_keys.filter(name="x").exists()


def test_command_turns_maintenance_on_and_off_and_reports_it(db, client):
    output = io.StringIO()

    call_command("maintenance", "on", sentence="Moving house.", reason="T-1", stdout=output)
    assert client.get("/").status_code == 503
    call_command("maintenance", "status", stdout=output)
    call_command("maintenance", "off", stdout=output)

    assert client.get("/").status_code == 302
    assert output.getvalue().splitlines() == [
        "Maintenance is on.",
        "Moving house.",
        "Maintenance is on.",
        "Moving house.",
        "Maintenance is off.",
    ]
    entries = AuditEntry.objects.order_by("position").values_list("action", "reason")
    assert list(entries) == [("maintenance.on", "T-1"), ("maintenance.off", "")]


def test_change_by_another_process_is_seen_when_the_cache_expires_after_one_second(db, client):
    maintenance.clear_cache()
    assert client.get("/").status_code == 302
    Maintenance.objects.update_or_create(pk=1, defaults={"is_on": True})
    assert maintenance._Cache.until - time.monotonic() <= 1.0

    maintenance.clear_cache()

    assert client.get("/").status_code == 503
