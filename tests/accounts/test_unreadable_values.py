"""A stored value that cannot be decrypted: its feature names it and says what to do, and everything else continues."""

import pytest
from django.apps import apps
from django.core.management import call_command

from accounts.models import OrganizationSettings, SecondFactor, UserSettings
from accounts.services import user_settings
from accounts.services.second_factor import begin_second_factor
from billing import services as billing
from billing.models import ModelAccess
from lib import crypto, resealing
from openhands_site import doctor
from tests.accounts.second_factor import PASSWORD, enrol

SEALED = [b"", b"\x03old" + b"x" * 40, b"\xff" * 60]


@pytest.mark.parametrize("column", [str(column) for column in resealing.columns()])
def test_every_encrypted_column_has_a_name_and_a_remedy(column):
    [found] = [each for each in resealing.columns() if str(each) == column]

    kind = crypto.describe_sealed(found.binding("1"))

    assert kind is found.model.SEALED_KINDS[found.name]
    assert kind.sentence.endswith(f"probably because the server's encryption key changed. {kind.remedy}")  # fmt: skip
    assert kind.remedy.endswith(".")


def test_models_describe_only_encrypted_columns():
    described = {
        f"{model._meta.db_table}.{column}"
        for model in apps.get_models()
        for column in getattr(model, "SEALED_KINDS", {})
    }
    assert described == {str(column) for column in resealing.columns()}


@pytest.mark.parametrize("sealed", SEALED)
def test_second_factor_asks_for_a_recovery_code_which_works(client, alice, sealed):
    codes = enrol(alice)
    SecondFactor.objects.update(sealed_secret=sealed)
    client.post("/sign-in", {"email": alice.email, "password": PASSWORD})

    refused = client.post("/sign-in/second-factor", {"code": "123456"})

    assert refused.status_code in (409, 422)
    assert "authenticator app cannot be decrypted" in refused.content.decode()
    assert "Sign in with a recovery code" in refused.content.decode()
    assert client.post("/sign-in/second-factor", {"code": codes[0]}).status_code == 302
    assert client.get("/settings/second-factor").status_code == 200
    removed = client.post("/settings/second-factor", {"act": "remove", "code": codes[1]})
    assert removed.status_code == 302
    assert not SecondFactor.objects.exists()


@pytest.mark.parametrize("sealed", SEALED)
def test_unreadable_secret_that_is_not_confirmed_is_replaced(client, alice, sealed):
    begin_second_factor(user=alice, password=PASSWORD)
    SecondFactor.objects.update(sealed_secret=sealed)
    client.force_login(alice)

    assert client.get("/settings/second-factor").status_code == 200
    answer = client.post("/settings/second-factor", {"act": "begin", "password": PASSWORD})
    assert answer.status_code == 302
    assert SecondFactor.objects.get().is_readable


@pytest.mark.parametrize("sealed", SEALED)
def test_pages_of_settings_say_that_their_values_are_unreadable(client, alice, sealed):
    place = {"organization": alice.personal_organization}
    user_settings.change_settings(user=alice, **place, values={"search_api_key": "Sec-search"})
    user_settings.change_organization_settings(**place, values={"search_api_key": "Sec-shared"})
    for user in (alice, None):
        billing.save_model_access(
            user=user, **place, base_url="https://models.example/v1", model="m", api_key="Sec-key"
        )
    client.force_login(alice)
    organization = f"/settings/organizations/{alice.personal_organization.pk}"
    pages = ("/settings/agent", f"{organization}/agents", "/settings/model", f"/settings/model/{alice.personal_organization.pk}")  # fmt: skip
    for page in pages:
        assert "cannot be decrypted" not in client.get(page).content.decode()
    UserSettings.objects.update(sealed_secrets=sealed)
    OrganizationSettings.objects.update(sealed_secrets=sealed)
    ModelAccess.objects.update(sealed_api_key=sealed)

    for page, name in zip(
        pages,
        ("MCP servers in your agent", "MCP servers in the organization", "API key", "API key"),
        strict=True,
    ):
        text = client.get(page).content.decode()
        assert name in text
        assert "cannot be decrypted" in text

    # Other settings can still be changed, and this does not delete the values: the key may come back.
    user_settings.change_settings(user=alice, **place, values={"git_user_name": "Al"})
    assert bytes(UserSettings.objects.get().sealed_secrets) == sealed


def test_doctor_names_and_counts_the_unreadable_values(alice):
    place = {"user": alice, "organization": alice.personal_organization}
    enrol(alice)
    user_settings.change_settings(**place, values={"search_api_key": "Sec-search"})
    [fine] = [c for c in doctor.run_checks() if c.name == "Stored secrets"]
    assert (fine.state, fine.detail) == ("ok", "2 encrypted values can be decrypted")
    SecondFactor.objects.update(sealed_secret=b"\xff" * 60)
    UserSettings.objects.update(sealed_secrets=b"")

    [check] = [c for c in doctor.run_checks() if c.name == "Stored secrets"]

    assert check.state == "failed"
    assert check.detail.startswith("2 of 2 encrypted values cannot be decrypted.")
    assert "the stored secret of the authenticator app (1): Sign in with a recovery" in check.detail
    assert "configuration of MCP servers in your agent settings (1): Enter them" in check.detail


def test_audit_command_names_the_kind_of_an_unreadable_value(alice, capsys):
    enrol(alice)
    SecondFactor.objects.update(sealed_secret=b"\xff" * 60)

    with pytest.raises(Exception, match="1 secret cannot be decrypted"):
        call_command("audit_encrypted_fields")

    assert "the stored secret of the authenticator app cannot be decrypted. Sign in with" in (
        capsys.readouterr().out
    )
