"""The directory of known model servers, and the list of suggested models."""

import pytest

from accounts.models import Membership
from billing import services
from billing.gateway import directory
from tests.conftest import key_client

OPENAI = "https://api.openai.com/v1"
OWN = "https://models.example.com/v1"
URL = "/api/v1/options/models"


@pytest.mark.parametrize(
    ("model", "base_url", "located"),
    [
        ("openai/gpt-5.1", "", ("gpt-5.1", OPENAI)),
        ("groq/openai/gpt-oss-120b", "", ("openai/gpt-oss-120b", directory.SERVERS["groq"])),
        ("openai/", "", None),
        ("gpt-5.1", "", None),
        ("unknown/gpt-5.1", "", None),
        ("openai/qwen", OWN, ("qwen", OWN)),
        ("litellm_proxy/openai/qwen", OWN, ("openai/qwen", OWN)),
        ("openai/gpt-5.1", OPENAI, ("openai/gpt-5.1", OPENAI)),
        ("qwen/qwen3", OWN, ("qwen/qwen3", OWN)),
    ],
)
def test_model_is_located_by_address_or_by_the_first_part_of_its_name(model, base_url, located):
    assert directory.locate_model(model, base_url) == located


@pytest.mark.parametrize(
    ("base_url", "formatted"),
    [
        (OPENAI, ("openai/m", "")),
        (OWN, ("m", OWN)),
        ("http://api.openai.com/v1", ("m", "http://api.openai.com/v1")),
    ],
)
def test_address_of_a_known_server_becomes_the_first_part_of_the_name(base_url, formatted):
    assert directory.format_model("m", base_url) == formatted


def test_every_offered_model_is_at_a_known_server():
    for model in directory.MODELS:
        name, base_url = directory.locate_model(model, "")
        assert directory.format_model(name, base_url) == (model, "")


class TestModelList:
    def test_list_without_stored_access_has_the_known_models_and_demo(self, api):
        assert api.get(URL).json() == {"items": sorted({"demo", *directory.MODELS})}

    def test_list_has_the_model_of_the_caller_only(self, api, alice, bob):
        services.save_model_access(
            organization=alice.personal_organization, user=alice, base_url=OWN, model="my-model"
        )

        assert "my-model" in api.get(URL).json()["items"]
        bobs = key_client(bob, organization=alice.personal_organization).get(URL)
        assert (bobs.status_code, "my-model" in bobs.json()["items"]) == (200, False)

    def test_role_without_the_permission_is_403(self, alice, bob):
        Membership.objects.filter(user=bob, organization=alice.personal_organization).update(
            role="billing"
        )

        response = key_client(bob, organization=alice.personal_organization).get(URL)

        assert (response.status_code, response.json()["permission"]) == (403, "model_access.view")
