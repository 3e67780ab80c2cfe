"""Maintenance mode closes the server to everybody but staff."""

import io

import pytest
from django.core.management import call_command
from django.test import Client

from accounts.models import AuditEntry, Maintenance
from accounts.services import maintenance
from tests.factories.accounts import UserFactory


@pytest.fixture
def closed(db):
    maintenance.set_maintenance(is_on=True, sentence="Back at noon.", retry_after=90)


def test_the_api_is_answered_with_a_problem(closed, api):
    response = api.get("/api/v1/users/me")

    assert (response.status_code, response.json()["code"]) == (503, "maintenance")
    assert response.json()["detail"] == "Back at noon."
    assert response.headers["Retry-After"] == "90"
    assert response.headers["Content-Type"] == "application/problem+json"


def test_people_see_a_page(closed, client, alice):
    client.force_login(alice)

    response = client.get("/")

    assert (response.status_code, response.headers["Retry-After"]) == (503, "90")
    assert "Back at noon." in response.content.decode()


def test_staff_pass(closed, client):
    client.force_login(UserFactory(is_staff=True))

    assert client.get("/settings").status_code == 200
    assert client.get("/api/v1/users/me").status_code == 200


def test_the_key_of_staff_does_not_pass(closed):
    from tests.conftest import key_client

    assert key_client(UserFactory(is_staff=True)).get("/api/v1/users/me").status_code == 503


@pytest.mark.parametrize("path", ["/alive", "/sign-in", "/api/v1/auth/csrf", "/admin/login/"])
def test_probes_and_the_ways_in_stay_open(closed, path):
    assert Client().get(path).status_code == 200


def test_agents_that_run_may_finish(closed, client):
    assert client.get("/api/llm/v1/models").status_code == 401


def test_unsafe_requests_are_refused_before_anything_is_written(closed, api, alice):
    assert api.post("/api/v1/api-keys", {"name": "x"}, format="json").status_code == 503
    assert not alice.api_keys.filter(name="x").exists()


def test_the_command_closes_opens_and_says(db, client):
    said = io.StringIO()

    call_command("maintenance", "on", sentence="Moving house.", reason="T-1", stdout=said)
    assert client.get("/").status_code == 503
    call_command("maintenance", "status", stdout=said)
    call_command("maintenance", "off", stdout=said)

    assert client.get("/").status_code == 302
    assert said.getvalue().splitlines() == [
        "Maintenance is on.",
        "Moving house.",
        "Maintenance is on.",
        "Moving house.",
        "Maintenance is off.",
    ]
    acts = AuditEntry.objects.order_by("position").values_list("action", "reason")
    assert list(acts) == [("maintenance.on", "T-1"), ("maintenance.off", "")]


def test_another_process_is_heard_within_a_second(db, client):
    """By the row alone: what this process remembers runs out."""
    maintenance.clear_cache()
    assert client.get("/").status_code == 302
    Maintenance.objects.update_or_create(pk=1, defaults={"is_on": True})
    assert maintenance._Cache.until - __import__("time").monotonic() <= 1.0

    maintenance.clear_cache()

    assert client.get("/").status_code == 503
