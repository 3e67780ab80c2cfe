"""The pages of a user's agent settings and custom secrets."""

import pytest

from accounts.models import CustomSecret, UserSettings
from accounts.services import custom_secrets, user_settings

FIELDS = {
    "field": [
        "confirmation_mode", "security_analyzer", "max_iterations", "condenser_max_size",
        "enable_default_condenser", "git_user_name", "git_user_email",
    ],
    "confirmation_mode": "1", "security_analyzer": "pattern", "max_iterations": "70", "condenser_max_size": "80",
    "enable_default_condenser": "1", "git_user_name": "A", "git_user_email": "a@example.com",
}  # fmt: skip


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


def read_settings(user):
    return user_settings.effective_settings(
        user_id=user.pk, organization_id=user.personal_organization.pk
    ).values


class TestSettings:
    def test_only_values_that_differ_from_the_defaults_are_saved(self, page, alice):
        assert page.get("/settings/agent").status_code == 200

        assert page.post("/settings/agent", FIELDS).status_code == 302

        assert UserSettings.objects.get().values == {
            "confirmation_mode": True,
            "security_analyzer": "pattern",
            "max_iterations": 70,
            "git_user_name": "A",
            "git_user_email": "a@example.com",
        }

    def test_search_key_is_kept_removed_and_never_shown(self, page, alice):
        page.post("/settings/agent", FIELDS | {"search_api_key": "tvly-Sec-1"})
        page.post("/settings/agent", FIELDS | {"search_api_key": ""})
        assert read_settings(alice)["search_api_key"] == "tvly-Sec-1"
        shown = page.get("/settings/agent")
        assert (shown.status_code, "tvly-Sec-1" in shown.text) == (200, False)
        page.post("/settings/agent", FIELDS | {"remove_search_api_key": "1"})
        assert read_settings(alice)["search_api_key"] is None

    def test_enforced_setting_has_no_field_and_cannot_be_posted(self, page, alice):
        user_settings.change_organization_settings(
            organization=alice.personal_organization,
            values={"confirmation_mode": True},
            enforced=["confirmation_mode"],
        )

        shown = page.get("/settings/agent")
        refused = page.post("/settings/agent", {"field": "confirmation_mode"})

        assert (shown.status_code, 'value="confirmation_mode"' in shown.text) == (200, False)
        assert refused.status_code == 403
        assert read_settings(alice)["confirmation_mode"] is True

    def test_bad_value_is_400_with_the_reason(self, page, alice):
        refused = page.post("/settings/agent", FIELDS | {"max_iterations": "0"})

        assert refused.status_code == 400
        assert "max_iterations" in refused.content.decode()
        assert not UserSettings.objects.exists()


class TestSecrets:
    def test_secret_is_created_listed_and_deleted(self, page, alice):
        form = {"name": "TOKEN", "value": "Sec-value-1", "description": "for it"}
        assert page.post("/settings/secrets", form).status_code == 302

        shown = page.get("/settings/secrets").content.decode()
        secret = CustomSecret.objects.get()
        assert "TOKEN" in shown
        assert "Sec-value-1" not in shown
        assert secret.value == "Sec-value-1"
        page.post("/settings/secrets", {"secret": str(secret.pk)})
        assert not CustomSecret.objects.exists()

    def test_rejected_form_does_not_show_the_value(self, page):
        refused = page.post("/settings/secrets", {"name": "a b", "value": "Sec-value-1"})

        assert refused.status_code == 400
        assert "Sec-value-1" not in refused.content.decode()

    def test_member_sees_shared_secrets_but_cannot_change_them(self, client, alice, bob):
        shared = custom_secrets.create_secret(
            organization=alice.personal_organization,
            by=alice,
            name="SHARED",
            value="x",
            is_shared=True,
        )
        client.force_login(bob)
        session = client.session
        session["organization"] = str(alice.personal_organization.pk)
        session.save()

        assert "SHARED" in client.get("/settings/secrets").content.decode()
        assert client.post("/settings/secrets", {"secret": str(shared.pk)}).status_code == 403
        form = {"name": "X", "value": "y", "scope": "organization"}
        assert client.post("/settings/secrets", form).status_code == 403
        assert CustomSecret.objects.count() == 1
