"""``/api/v1/settings``, ``/api/v1/organizations/{id}/settings`` and ``/api/v1/options``."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import IdentityProvider, Membership
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import maintenance, user_settings
from accounts.settings.fields import FIELDS
from lib.masks import MASK
from tests.conftest import key_client

URL = "/api/v1/settings"
DEFAULTS = {name: field.default for name, field in FIELDS.items()}


def patch(client, values, **more):
    return client.patch(URL, {"values": values} | more, format="json")


@pytest.fixture
def shared(alice, bob):
    """Alice's organization, in which Bob is a member."""
    return alice.personal_organization


class TestGet:
    def test_head_has_the_headers_of_a_get_and_no_body(self, api):
        head, response = api.head(URL), api.get(URL)

        assert (head.status_code, head.headers["ETag"]) == (200, response.headers["ETag"])
        assert (head.content, len(response.content) > 0) == (b"", True)

    def test_response_has_every_field_and_its_source(self, api, alice):
        response = api.get(URL)

        assert response.status_code == 200
        assert response.json() == {
            "organization": str(alice.personal_organization.pk),
            "version": 0,
            "values": DEFAULTS,
            "set_by": dict.fromkeys(FIELDS, "default"),
        }

    def test_query_selects_another_organization_of_the_user(self, shared, bob):
        user_settings.change_organization_settings(
            organization=shared, values={"language": "fr"}, enforced=["language"]
        )
        client = APIClient()
        client.force_login(bob)

        body = client.get(f"{URL}?organization={shared.pk}").json()

        assert (body["values"]["language"], body["set_by"]["language"]) == ("fr", "enforced")
        assert client.get(URL).json()["values"]["language"] == "en"

    def test_organization_without_membership_is_404(self, shared, charlie):
        assert key_client(charlie).get(f"{URL}?organization={shared.pk}").status_code == 404


class TestFastGet:
    """The fast path of GET: one SQL statement for requests whose key or query names the organization."""

    @pytest.fixture
    def all_sources(self, alice, shared):
        """Set values by every source: enforced, organization and user, with secrets of both."""
        user_settings.change_organization_settings(
            organization=shared,
            values={"language": "fr", "max_iterations": 60, "search_api_key": "tvly-Very-Secret"},
            enforced=["max_iterations"],
        )
        mcp = {"shttp_servers": [{"url": "https://mcp.example.com", "api_key": "mcp-Very-Secret"}]}
        user_settings.change_settings(
            user=alice,
            organization=shared,
            values={"git_user_name": "Ada Ł", "condenser_max_size": 50, "mcp_config": mcp},
        )

    def test_response_has_exactly_these_bytes(self, api, shared, all_sources):
        response = api.get(URL)

        assert response.headers["Content-Type"] == "application/json"
        assert response.content.decode() == (
            f'{{"organization":"{shared.pk}","version":1,"values":{{"language":"fr",'
            '"agent":"CodeActAgent","max_iterations":60,"confirmation_mode":false,'
            '"security_analyzer":"llm","enable_default_condenser":true,"condenser_max_size":50,'
            '"max_budget_per_task_micros":null,"git_user_name":"Ada Ł","git_user_email":"",'
            '"remote_runtime_resource_factor":1,"enable_sound_notifications":false,'
            '"enable_proactive_conversation_starters":true,"enable_solvability_analysis":true,'
            '"user_consents_to_analytics":false,"search_api_key":"**********",'
            '"mcp_config":{"shttp_servers":[{"api_key":"**********","url":"https://mcp.example.com"}],'
            '"sse_servers":[],"stdio_servers":[]}},"set_by":{"language":"organization",'
            '"agent":"default","max_iterations":"enforced","confirmation_mode":"default",'
            '"security_analyzer":"default","enable_default_condenser":"default",'
            '"condenser_max_size":"user","max_budget_per_task_micros":"default",'
            '"git_user_name":"user","git_user_email":"default",'
            '"remote_runtime_resource_factor":"default","enable_sound_notifications":"default",'
            '"enable_proactive_conversation_starters":"default",'
            '"enable_solvability_analysis":"default","user_consents_to_analytics":"default",'
            '"search_api_key":"organization","mcp_config":"user"}}'
        )

    def test_request_needs_one_query_in_addition_to_the_keys(
        self, api, all_sources, django_assert_num_queries
    ):
        api.get(URL)  # notes the key's use

        with django_assert_num_queries(2):
            assert api.get(URL).status_code == 200

    def test_bytes_are_equal_for_sessions_and_keys(self, api, alice, bob, shared, all_sources):
        session = APIClient()
        session.force_login(alice)
        for where in ("", f"?organization={shared.pk}"):
            assert api.get(URL + where).content == session.get(URL + where).content
        session.force_login(bob)
        of_bob = key_client(bob, organization=shared).get(URL)
        assert of_bob.content == session.get(f"{URL}?organization={shared.pk}").content
        assert of_bob.json()["set_by"]["git_user_name"] == "default"

    def test_matching_etag_is_304_until_any_value_changes(self, api, alice, bob, shared):
        team = key_client(bob, organization=shared)
        key = "tvly-Very-Secret"
        changes = [
            lambda: patch(api, {"language": "de"}),
            lambda: patch(api, {"search_api_key": key}),
            lambda: patch(api, {"search_api_key": key[::-1]}),
            lambda: user_settings.change_organization_settings(
                organization=shared, values={"max_iterations": 60}
            ),
            lambda: user_settings.change_organization_settings(
                organization=shared, values={}, enforced=["language"]
            ),
        ]
        for change in changes:
            tag = api.get(URL).headers["ETag"]
            again = api.get(URL, headers={"If-None-Match": tag})
            change()
            changed = api.get(URL, headers={"If-None-Match": tag})

            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
            assert (changed.status_code, changed.headers["ETag"] != tag) == (200, True)
        tag = api.get(URL).headers["ETag"]
        assert team.get(URL, headers={"If-None-Match": tag}).status_code == 200

    def test_matching_etag_of_a_session_is_304(self, alice):
        session = APIClient()
        session.force_login(alice)
        tag = session.get(URL).headers["ETag"]

        assert session.get(URL, headers={"If-None-Match": tag}).status_code == 304

    def test_key_without_access_to_the_settings_is_refused(self, api, bob, shared, monkeypatch):
        elsewhere = api.get(URL, headers={"X-Organization": str(bob.personal_organization.pk)})
        no_id = api.get(f"{URL}?organization=x")
        scoped = key_client(bob, scopes=["account.view"]).get(URL)
        client = key_client(bob, organization=shared)
        monkeypatch.setitem(ROLE_PERMISSIONS, Membership.Role.MEMBER, frozenset({"account.view"}))
        lacking = client.get(URL)
        Membership.objects.filter(user=bob, organization=shared).delete()
        left = client.get(URL)

        refusals = [elsewhere, no_id, scoped, lacking, left]
        assert [r.status_code for r in refusals] == [404, 404, 403, 403, 404]
        assert lacking.json()["permission"] == "settings.view"


class TestPatch:
    def test_only_the_named_fields_change(self, api):
        body = patch(api, {"language": "de", "condenser_max_size": 50}, version=0).json()

        assert body["version"] == 1
        assert body["values"] == DEFAULTS | {"language": "de", "condenser_max_size": 50}
        assert {name for name, source in body["set_by"].items() if source == "user"} == {
            "language",
            "condenser_max_size",
        }
        assert api.get(URL).json() == body

    def test_stale_version_is_409(self, api):
        patch(api, {"language": "de"})

        response = patch(api, {"language": "fr"}, version=0)

        assert response.status_code == 409
        assert (response.json()["code"], response.json()["version"]) == ("stale-settings", 1)

    def test_enforced_setting_is_403(self, api, alice):
        user_settings.change_organization_settings(
            organization=alice.personal_organization, values={}, enforced=["language"]
        )

        response = patch(api, {"language": "fr"})

        assert (response.status_code, response.json()["code"]) == (403, "enforced-setting")

    def test_secret_value_is_masked_in_every_response(self, api):
        response = patch(api, {"search_api_key": "tvly-Very-Secret"})

        assert response.json()["values"]["search_api_key"] == MASK
        assert "tvly-Very-Secret" not in response.content.decode() + api.get(URL).content.decode()

    def test_sending_back_the_masked_values_changes_nothing(self, api, alice):
        mcp = {"shttp_servers": [{"url": "https://mcp.example.com", "api_key": "mcp-Very-Secret"}]}
        patch(api, {"search_api_key": "tvly-Very-Secret", "mcp_config": mcp})
        read = api.get(URL).json()
        before = user_settings.effective_settings(
            user_id=alice.pk, organization_id=alice.personal_organization.pk
        )

        response = patch(api, read["values"], version=read["version"])

        assert response.status_code == 200
        after = user_settings.effective_settings(
            user_id=alice.pk, organization_id=alice.personal_organization.pk
        )
        assert after.values == before.values
        assert after.values["mcp_config"]["shttp_servers"] == mcp["shttp_servers"]

    @pytest.mark.parametrize("value", ["***", "tvly-••••", MASK])
    def test_mask_of_an_unset_secret_is_400(self, api, value):
        response = patch(api, {"search_api_key": value})

        assert (response.status_code, response.json()["field"]) == (400, "search_api_key")

    def test_null_clears_the_value(self, api):
        patch(api, {"search_api_key": "tvly-Very-Secret"})

        assert patch(api, {"search_api_key": None}).json()["values"]["search_api_key"] is None

    @pytest.mark.parametrize(
        "body",
        [{}, {"values": []}, {"values": {"x": 1}}, {"values": {}, "version": -1}, {"values": None}],
    )
    def test_bad_body_is_400(self, api, body):
        assert api.patch(URL, body, format="json").status_code == 400


class TestOrganizationSettings:
    def url(self, organization):
        return f"/api/v1/organizations/{organization.pk}/settings"

    def test_patch_sets_defaults_and_enforces_fields(self, api, shared, bob):
        response = api.patch(
            self.url(shared),
            {"version": 0, "values": {"max_iterations": 60}, "enforced": ["confirmation_mode"]},
            format="json",
        )

        nothing = dict.fromkeys(FIELDS)
        assert response.json() == {
            "version": 1,
            "values": nothing | {"max_iterations": 60},
            "enforced": ["confirmation_mode"],
        }
        assert api.get(self.url(shared)).json() == response.json()
        bobs = user_settings.effective_settings(user_id=bob.pk, organization_id=shared.pk)
        assert bobs.values["max_iterations"] == 60
        assert bobs.set_by["confirmation_mode"] == "enforced"

    def test_member_is_403(self, shared, bob):
        client = APIClient()
        client.force_login(bob)

        assert client.get(self.url(shared)).status_code == 403
        assert client.patch(self.url(shared), {"values": {}}, format="json").status_code == 403

    def test_bad_body_is_400_and_stale_version_409(self, api, shared):
        for body in ({"enforced": ["x"]}, {"values": {"language": 5}}, {"version": 7}):
            status = api.patch(self.url(shared), body, format="json").status_code
            assert status == (409 if "version" in body else 400)


class TestOptions:
    def test_lists_have_the_agents_and_security_analyzers(self, api):
        assert api.get("/api/v1/options/agents").json() == {"items": ["CodeActAgent"]}
        assert api.get("/api/v1/options/security-analyzers").json() == {"items": ["llm", "pattern"]}

    def test_config_is_public_and_sets_the_csrf_cookie(self, db, client):
        response = client.get("/api/v1/options/config")

        assert response.json() == {
            "app_mode": "saas",
            "providers": [],
            "auth_url": "",
            "features": {
                "billing": False,
                "hide_llm_settings": False,
                "jira": False,
                "jira_dc": False,
                "linear": False,
            },
            "maintenance_at": None,
        }
        assert response.cookies["XSRF-TOKEN"].value

    def test_config_names_the_keycloak_and_the_planned_maintenance(self, db, client, settings):
        settings.KEYCLOAK_IDP_HINTS = ["github", "gitlab"]
        IdentityProvider.objects.create(
            slug="keycloak", name="K", kind="keycloak", client_id="c",
            issuer="https://id.example.com:8443/realms/x",
        )  # fmt: skip
        at = timezone.now().replace(microsecond=0) + timedelta(hours=2)
        call_command("maintenance", "plan", at=at)

        config = client.get("/api/v1/options/config").json()

        assert config["providers"] == ["github", "gitlab"]
        assert config["auth_url"] == "https://id.example.com:8443"
        assert config["maintenance_at"] == at.isoformat().replace("+00:00", "Z")
        maintenance.plan_maintenance(at=None)
        assert client.get("/api/v1/options/config").json()["maintenance_at"] is None
