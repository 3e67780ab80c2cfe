"""The admin pages of billing: read-only usage without secrets."""

import pytest
from django.test import Client

from accounts import services as accounts
from billing import services
from billing.prices import Tokens
from tests.billing.conftest import UPSTREAM_KEY

PAGES = ["modelcall", "conversationusage", "gatewaytoken", "modelaccess"]


@pytest.fixture
def staff(db) -> Client:
    user = accounts.create_user(
        email="root@example.com", password="correct horse battery", is_staff=True, is_superuser=True
    )
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def rows(token, access) -> dict[str, object]:
    row = services.authenticate_gateway_token(token)
    tokens = Tokens(prompt=4321, completion=1234, cached=0)
    call = services.record_call(
        token=row,
        access=access,
        model="m",
        outcome="answered",
        status=200,
        tokens=tokens,
        seconds=1,
    )
    return {
        "modelcall": call.pk,
        "conversationusage": row.conversation_id,
        "gatewaytoken": row.pk,
        "modelaccess": access.pk,
    }


@pytest.mark.parametrize("page", PAGES)
def test_list_and_detail_pages_show_usage_without_secrets(staff, rows, token, access, page):
    row = services.authenticate_gateway_token(token)
    for url in (f"/admin/billing/{page}/", f"/admin/billing/{page}/{rows[page]}/change/"):
        response = staff.get(url)
        text = response.content.decode()
        assert response.status_code == 200
        assert UPSTREAM_KEY not in text
        assert row.digest not in text
        assert bytes(access.sealed_api_key).hex() not in text
        if page in ("modelcall", "conversationusage"):
            assert "4321" in text


@pytest.mark.parametrize("page", PAGES)
def test_rows_cannot_be_added_changed_or_deleted(staff, rows, page):
    assert staff.get(f"/admin/billing/{page}/add/").status_code == 403
    assert staff.post(f"/admin/billing/{page}/{rows[page]}/change/", {}).status_code == 403
    assert (
        staff.post(f"/admin/billing/{page}/{rows[page]}/delete/", {"post": "yes"}).status_code
        == 403
    )


def test_search_by_conversation_finds_its_call(staff, rows):
    response = staff.get(f"/admin/billing/modelcall/?q={rows['conversationusage']}")
    assert "1 model call" in response.content.decode()
