"""``/api/v1/model-calls``: the list, its filters, and one call."""

from datetime import timedelta
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from accounts.services import organizations, service_accounts
from tests.billing.api.conftest import NOON, add_member, open_session, record_call
from tests.conftest import key_client

URL = "/api/v1/model-calls"


def ids(response):
    return [row["id"] for row in response.json()["items"]]


def list_ids(client, team, **query):
    response = client.get(URL, {"organization": str(team.pk)} | query)
    assert response.status_code == 200, response.json()
    return ids(response)


class TestList:
    def test_call_has_tokens_cost_and_conversation(self, alice, team):
        conversation_id = uuid4()
        call = record_call(alice, team, conversation_id, tokens=10)

        response = open_session(alice).get(f"{URL}?organization={team.pk}")

        assert response.json() == {
            "items": [
                {
                    "id": str(call.pk),
                    "organization": str(team.pk),
                    "user": str(alice.pk),
                    "conversation": str(conversation_id),
                    "model": "small",
                    "outcome": "answered",
                    "status": 200,
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "cached_tokens": 0,
                    "cost_micros": 10,
                    "seconds": 1.5,
                    "error": "",
                    "created_at": "2026-03-10T12:00:00Z",
                }
            ],
            "next": None,
        }

    @pytest.mark.parametrize(
        ("role", "sees"),
        [
            ("owner", "all"),
            ("admin", "all"),
            ("billing", "all"),
            ("auditor", "all"),
            ("member", "own"),
            ("viewer", "own"),
        ],
    )
    def test_role_decides_between_own_and_all_calls(self, alice, team, role, sees):
        user = add_member(team, role)
        others = record_call(alice, team, uuid4())
        own = record_call(user, team, uuid4(), at=NOON + timedelta(hours=1))

        call_ids = list_ids(open_session(user), team)

        assert call_ids == ([str(own.pk), str(others.pk)] if sees == "all" else [str(own.pk)])

    def test_without_organization_lists_the_personal_one(self, alice, team):
        own = record_call(alice, alice.personal_organization, uuid4())
        record_call(alice, team, uuid4())

        assert ids(open_session(alice).get(URL)) == [str(own.pk)]

    def test_key_lists_its_own_organization_only(self, alice, team):
        record_call(alice, alice.personal_organization, uuid4())
        call = record_call(alice, team, uuid4())
        client = key_client(alice, organization=team)

        assert ids(client.get(URL)) == [str(call.pk)]
        personal = alice.personal_organization.pk
        assert client.get(f"{URL}?organization={personal}").status_code == 404

    def test_owners_key_without_view_all_lists_own_calls(self, alice, team, bob):
        record_call(bob, team, uuid4())
        own = record_call(alice, team, uuid4())
        client = key_client(alice, organization=team, scopes=["usage.view"])

        assert ids(client.get(URL)) == [str(own.pk)]

    def test_service_account_lists_its_own_calls(self, alice, team):
        account = service_accounts.create_service_account(
            organization=team, by=alice, name="ci", role="member"
        )
        _, token = service_accounts.issue_service_account_key(account=account, by=alice, name="x")
        record_call(alice, team, uuid4())
        own = record_call(account.user, team, uuid4())

        response = APIClient(headers={"Authorization": f"Bearer {token}"}).get(URL)

        assert ids(response) == [str(own.pk)]

    def test_foreign_organization_is_404(self, charlie, team, alice):
        record_call(alice, team, uuid4())

        assert open_session(charlie).get(f"{URL}?organization={team.pk}").status_code == 404
        assert ids(open_session(charlie).get(URL)) == []

    def test_suspended_organization_is_403(self, alice, team):
        record_call(alice, team, uuid4())
        organizations.suspend_organization(organization=team)

        response = open_session(alice).get(f"{URL}?organization={team.pk}")

        assert (response.status_code, response.json()["code"]) == (403, "organization-suspended")

    def test_removed_member_sees_no_calls(self, alice, team, bob):
        call = record_call(bob, team, uuid4())
        organizations.remove_member(organization=team, by=alice, user_id=bob.pk)

        assert open_session(bob).get(f"{URL}/{call.pk}").status_code == 404
        assert open_session(bob).get(f"{URL}?organization={team.pk}").status_code == 404

    def test_key_without_the_scope_is_403(self, alice):
        response = key_client(alice, scopes=["account.view"]).get(URL)

        assert (response.status_code, response.json()["permission"]) == (403, "usage.view")

    def test_anonymous_is_401(self, db):
        assert APIClient().get(URL).status_code == 401

    def test_pages_have_every_call_once_newest_first(self, alice, team):
        calls = [
            record_call(alice, team, uuid4(), at=NOON + timedelta(minutes=number // 2))
            for number in range(5)
        ]
        client, query = open_session(alice), f"{URL}?organization={team.pk}&limit=2"

        first = client.get(query).json()
        second = client.get(f"{query}&cursor={first['next']}").json()
        third = client.get(f"{query}&cursor={second['next']}").json()

        pages = [[row["id"] for row in page["items"]] for page in (first, second, third)]
        assert pages[0] + pages[1] + pages[2] == [str(call.pk) for call in reversed(calls)]
        assert third["next"] is None

    def test_number_of_queries_is_fixed(self, alice, team, django_assert_num_queries):
        client = key_client(alice, organization=team)
        client.get(URL)
        for _ in range(5):
            record_call(alice, team, uuid4())

        with django_assert_num_queries(4):  # key, organization, membership, calls
            assert len(ids(client.get(URL))) == 5


class TestFilters:
    def test_conversation_selects_its_calls(self, alice, team):
        conversation_id = uuid4()
        call = record_call(alice, team, conversation_id)
        record_call(alice, team, uuid4())

        calls = list_ids(open_session(alice), team, conversation=str(conversation_id))

        assert calls == [str(call.pk)]

    def test_since_is_included_and_until_is_not(self, alice, team):
        _, noon, _ = (
            record_call(alice, team, uuid4(), at=NOON + timedelta(hours=hours))
            for hours in (-1, 0, 1)
        )

        calls = list_ids(
            open_session(alice), team, since="2026-03-10T12:00:00Z", until="2026-03-10T13:00:00Z"
        )

        assert calls == [str(noon.pk)]

    @pytest.mark.parametrize(
        ("name", "value"), [("model", "large"), ("outcome", "failed"), ("outcome", "abandoned")]
    )
    def test_model_and_outcome_select_the_matching_calls(self, alice, team, name, value):
        record_call(alice, team, uuid4())
        call = record_call(alice, team, uuid4(), **{name: value})

        assert list_ids(open_session(alice), team, **{name: value}) == [str(call.pk)]

    def test_user_selects_the_calls_of_a_member_whom_the_caller_may_see(self, alice, team, bob):
        own, bobs = record_call(alice, team, uuid4()), record_call(bob, team, uuid4())

        assert list_ids(open_session(alice), team, user=str(bob.pk)) == [str(bobs.pk)]
        assert list_ids(open_session(alice), team, user=str(alice.pk)) == [str(own.pk)]
        assert list_ids(open_session(bob), team, user=str(alice.pk)) == []

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("conversation=x", "conversation"),
            ("user=x", "user"),
            ("organization=x", "organization"),
            ("since=yesterday", "since"),
            ("until=", "until"),
            ("outcome=good", "outcome"),
            ("model=", "model"),
            ("since=2026-03-11T00:00:00Z&until=2026-03-10T00:00:00Z", "until"),
            ("colour=red", "colour"),
            ("limit=0", "limit"),
            ("cursor=x", "cursor"),
        ],
    )
    def test_bad_filter_is_400_with_a_sentence(self, alice, query, field):
        response = open_session(alice).get(f"{URL}?{query}")

        body = response.json()
        assert (response.status_code, list(body["errors"])) == (400, [field])
        assert body["detail"].startswith(f"{field}: ")
        assert body["detail"].endswith((".", "\u201d"))


class TestRetrieve:
    def test_detail_equals_the_row_of_the_list(self, alice, team):
        call = record_call(alice, team, uuid4(), tokens=4)
        client = open_session(alice)

        response = client.get(f"{URL}/{call.pk}")

        assert response.status_code == 200
        assert response.json() == client.get(f"{URL}?organization={team.pk}").json()["items"][0]

    def test_call_of_another_member_needs_view_all(self, alice, team, bob):
        of_alice, of_bob = record_call(alice, team, uuid4()), record_call(bob, team, uuid4())

        assert open_session(bob).get(f"{URL}/{of_alice.pk}").status_code == 404
        assert open_session(bob).get(f"{URL}/{of_bob.pk}").status_code == 200
        assert open_session(alice).get(f"{URL}/{of_bob.pk}").status_code == 200

    def test_foreign_call_is_404(self, alice, team, charlie):
        call = record_call(alice, team, uuid4())

        assert open_session(charlie).get(f"{URL}/{call.pk}").status_code == 404
        bound = key_client(alice, organization=alice.personal_organization)
        assert bound.get(f"{URL}/{call.pk}").status_code == 404

    def test_unknown_call_is_404(self, alice):
        assert open_session(alice).get(f"{URL}/{uuid4()}").status_code == 404
        assert open_session(alice).get(f"{URL}/x").status_code == 404

    @pytest.mark.parametrize("method", ["put", "patch", "delete"])
    def test_call_cannot_be_changed(self, alice, team, method):
        call = record_call(alice, team, uuid4())

        assert getattr(open_session(alice), method)(f"{URL}/{call.pk}").status_code == 405
        assert open_session(alice).post(URL, {}, "json").status_code == 405
