"""The cost limit of conversations on the page of agent settings."""

import re

import pytest

from accounts.services import user_settings

URL = "/settings/agent"
NAME = "max_budget_per_task_micros"


def post(client, **fields):
    data = {"field": [NAME], NAME: "", "max_iterations": "500", "condenser_max_size": "80"} | fields
    return client.post(URL, data, follow=True)


def read_field(response):
    """Return the HTML element of the field."""
    return re.search(f'<input [^>]*name="{NAME}"[^>]*id=[^>]*>', response.text)[0]


@pytest.mark.parametrize(
    ("text", "micros", "shown"),
    [("2.50", 2_500_000, "2.5"), ("$0.000001", 1, "0.000001"), ("", None, "")],
)
def test_limit_is_entered_in_dollars(client, alice, text, micros, shown):
    client.force_login(alice)
    response = post(client, **{NAME: text})
    assert response.status_code == 200
    organization = alice.personal_organization
    found = user_settings.effective_value(
        user_id=alice.pk, organization_id=organization.pk, name=NAME
    )
    assert found == (micros, False)
    assert (f' value="{shown}"' in read_field(client.get(URL))) == bool(shown)


@pytest.mark.parametrize("text", ["much", "-1", "NaN", "0", "1e999999", "0.0000001", "9" * 5_000])
def test_invalid_limit_is_refused_and_shown_again(client, alice, text):
    client.force_login(alice)
    response = post(client, **{NAME: text})
    assert response.status_code == 400
    field = read_field(response)
    assert ' aria-invalid="true"' in field
    assert f' value="{text}"' in field


def test_one_setting_is_read_with_the_same_precedence_as_all_settings(alice):
    organization = alice.personal_organization
    owner = {"user_id": alice.pk, "organization_id": organization.pk}
    for change in (
        lambda: None,
        lambda: user_settings.change_organization_settings(
            organization=organization, values={NAME: 5}
        ),
        lambda: user_settings.change_settings(
            user=alice, organization=organization, values={NAME: 7}
        ),
        lambda: user_settings.change_organization_settings(
            organization=organization, values={}, enforced=[NAME]
        ),
    ):
        change()
        effective = user_settings.effective_settings(**owner)
        expected = (effective.values[NAME], effective.set_by[NAME] == user_settings.ENFORCED)
        assert user_settings.effective_value(**owner, name=NAME) == expected
    assert expected == (5, True)
