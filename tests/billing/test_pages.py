"""The page of the model settings."""

import pytest

from billing.gateway import checking
from billing.models import ModelAccess
from billing.web import forms

FORM = {
    "base_url": "https://models.example.com/v1",
    "model": "some-model",
    "api_key": "sk-secret-1234",
    "prompt_price": "2.50",
    "completion_price": "$10",
}


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


def test_page_without_stored_access_names_the_demo_model(page):
    assert "Conversations use the demo model" in page.get("/settings/model").text


def test_settings_are_saved_without_showing_the_key(page, alice):
    response = page.post("/settings/model", FORM, follow=True)
    access = ModelAccess.objects.get()

    assert "Saved." in response.text
    assert "sk-secret" not in response.text
    assert "A key is stored" in response.text
    assert access.api_key() == "sk-secret-1234"
    assert (access.prompt_micros_per_million, access.completion_micros_per_million) == (
        2_500_000,
        10_000_000,
    )
    assert access.cached_micros_per_million == 2_500_000
    assert 'value="2.5"' in response.text


def test_empty_key_keeps_the_stored_one_and_the_checkbox_removes_it(page):
    page.post("/settings/model", FORM)
    page.post("/settings/model", FORM | {"api_key": "", "model": "other"})
    assert ModelAccess.objects.get().api_key() == "sk-secret-1234"

    page.post("/settings/model", FORM | {"api_key": "", "remove_key": "1"})
    assert not ModelAccess.objects.get().has_api_key


@pytest.mark.parametrize(
    "change",
    [{"base_url": "ftp://x"}, {"base_url": ""}, {"model": ""}, {"prompt_price": "much"}, {"prompt_price": "-1"}, {"prompt_price": "NaN"}, {"prompt_price": "0.0000001"}, {"prompt_price": "1e999999"}, {"api_key": "****"}],
)  # fmt: skip
def test_invalid_form_is_refused_and_keeps_its_fields(page, change):
    response = page.post("/settings/model", FORM | change)

    assert 400 <= response.status_code < 500
    assert 'class="field-error"' in response.text
    assert "sk-secret" not in response.text
    assert ("some-model" in response.text) is ("model" not in change)
    assert not ModelAccess.objects.exists()


def test_failed_test_call_is_502_with_the_reason_and_keeps_the_settings(page, monkeypatch):
    def refuse(access):
        raise checking.ModelCheckFailed("The model server refused the key.")

    monkeypatch.setattr(checking, "check_model_access", refuse)
    response = page.post("/settings/model", FORM | {"intent": "test"})

    assert response.status_code == 502
    assert "refused the key" in response.text
    assert ModelAccess.objects.exists()


def test_demo_button_deletes_the_stored_access(page):
    page.post("/settings/model", FORM)
    response = page.post("/settings/model", {"intent": "demo"}, follow=True)

    assert "demo model again" in response.text
    assert not ModelAccess.objects.exists()


@pytest.mark.parametrize(
    ("text", "amount"), [("", 0), ("2.5", 2_500_000), (" $0.000001 ", 1), ("10", 10_000_000)]
)
def test_price_is_converted_to_micros_and_back(text, amount):
    assert forms.to_micros(text) == amount
    assert forms.to_micros(forms.to_dollars(amount)) == amount


def test_refused_address_is_named_with_the_label_of_its_field(client, alice):
    client.force_login(alice)

    answer = client.post("/settings/model", {"base_url": "http://169.254.169.254/v1", "model": "m"})

    assert (
        "URL: 169.254.169.254 is a reserved network address, which this server never calls."
        in answer.text
    )
