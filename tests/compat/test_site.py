"""``/api/options/…``, ``/health``, ``/server_info`` and ``/saas``: site routes of OpenHands' clients."""

from datetime import timedelta

from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import IdentityProvider
from accounts.services import maintenance

CONFIG = {
    "APP_MODE": "saas",
    "APP_SLUG": None,
    "GITHUB_CLIENT_ID": "",
    "POSTHOG_CLIENT_KEY": "",
    "PROVIDERS_CONFIGURED": [],
    "FEATURE_FLAGS": {
        "ENABLE_BILLING": False,
        "HIDE_LLM_SETTINGS": False,
        "ENABLE_JIRA": False,
        "ENABLE_JIRA_DC": False,
        "ENABLE_LINEAR": False,
    },
}


class TestConfig:
    def test_config_of_a_default_installation(self, db, client):
        response = client.get("/api/options/config")

        assert response.status_code == 200
        assert response.json() == CONFIG

    def test_config_sets_the_csrf_cookie_that_a_write_needs(self, alice):
        """The web client copies this cookie into a header and has no other source for the token."""
        client = APIClient(enforce_csrf_checks=True)
        client.force_login(alice)
        refused = client.post("/api/settings", {"language": "de"}, format="json")
        client.get("/api/options/config")
        cookie = client.cookies["XSRF-TOKEN"]

        accepted = client.post(
            "/api/settings",
            {"language": "de"},
            format="json",
            headers={"X-XSRF-TOKEN": cookie.value},
        )

        assert not cookie["httponly"]
        assert (refused.status_code, accepted.status_code) == (403, 200)

    def test_config_shows_keycloak_maintenance_and_app_mode(self, db, client, settings):
        settings.APP_MODE = "oss"
        settings.KEYCLOAK_IDP_HINTS = ["github", "enterprise_sso"]
        IdentityProvider.objects.create(
            slug="k",
            name="K",
            kind="keycloak",
            client_id="c",
            issuer="https://id.example.com/realms/x",
        )
        starts_at = timezone.now() + timedelta(hours=1)
        maintenance.plan_maintenance(at=starts_at)

        assert client.get("/api/options/config").json() == CONFIG | {
            "APP_MODE": "oss",
            "PROVIDERS_CONFIGURED": ["github", "enterprise_sso"],
            "AUTH_URL": "https://id.example.com",
            "MAINTENANCE": {"startTime": starts_at.isoformat()},
        }
        assert client.get("/saas").json() == {"saas": False}

    def test_config_omits_a_past_maintenance(self, db, client):
        maintenance.plan_maintenance(at=timezone.now() - timedelta(hours=1))

        assert client.get("/api/options/config").json() == CONFIG


def test_option_lists_hold_the_agent_and_the_analyzers(api):
    assert api.get("/api/options/agents").json() == ["CodeActAgent"]
    assert api.get("/api/options/security-analyzers").json() == ["llm", "pattern"]


def test_health_and_saas_need_no_sign_in(db, client):
    assert client.get("/health").json() == "OK"
    assert client.get("/saas").json() == {"saas": True}


def test_server_info_shows_strangers_and_members_nothing_about_the_process(client, api):
    for caller in (client, api):
        assert caller.get("/server_info").json() == {
            "uptime": None,
            "idle_time": 0.0,
            "resources": {},
        }


def test_server_info_reports_uptime_and_resources_to_operators(client, alice):
    alice.is_staff = alice.is_superuser = True
    alice.save()
    client.force_login(alice)
    info = client.get("/server_info").json()

    assert info["uptime"] > 0
    assert set(info) == {"uptime", "idle_time", "resources"}
    assert info["resources"]["memory"]["rss"] > 0
    assert set(info["resources"]) == {"cpu_percent", "memory", "disk", "io"}
