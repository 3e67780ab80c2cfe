"""``/api/v1/model-calls``."""

from datetime import timedelta
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from accounts.services import organizations, service_accounts
from tests.billing.api.conftest import NOON, client_of, member, record
from tests.conftest import key_client

URL = "/api/v1/model-calls"


def ids(response):
    return [row["id"] for row in response.json()["items"]]


def listed(client, team, **query):
    response = client.get(URL, {"organization": str(team.pk)} | query)
    assert response.status_code == 200, response.json()
    return ids(response)


class TestList:
    def test_call_has_tokens_cost_and_conversation(self, alice, team):
        conversation_id = uuid4()
        call = record(alice, team, conversation_id, tokens=10)

        response = client_of(alice).get(f"{URL}?organization={team.pk}")

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
        user = member(team, role)
        others = record(alice, team, uuid4())
        own = record(user, team, uuid4(), at=NOON + timedelta(hours=1))

        calls = listed(client_of(user), team)

        assert calls == ([str(own.pk), str(others.pk)] if sees == "all" else [str(own.pk)])

    def test_without_organization_lists_the_personal_one(self, alice, team):
        own = record(alice, alice.personal_organization, uuid4())
        record(alice, team, uuid4())

        assert ids(client_of(alice).get(URL)) == [str(own.pk)]

    def test_key_lists_its_own_organization_only(self, alice, team):
        record(alice, alice.personal_organization, uuid4())
        call = record(alice, team, uuid4())
        client = key_client(alice, organization=team)

        assert ids(client.get(URL)) == [str(call.pk)]
        personal = alice.personal_organization.pk
        assert client.get(f"{URL}?organization={personal}").status_code == 404

    def test_owners_key_without_view_all_lists_own_calls(self, alice, team, bob):
        record(bob, team, uuid4())
        own = record(alice, team, uuid4())
        client = key_client(alice, organization=team, scopes=["usage.view"])

        assert ids(client.get(URL)) == [str(own.pk)]

    def test_service_account_lists_its_own_calls(self, alice, team):
        account = service_accounts.create_service_account(
            organization=team, by=alice, name="ci", role="member"
        )
        _, token = service_accounts.issue_service_account_key(account=account, by=alice, name="x")
        record(alice, team, uuid4())
        own = record(account.user, team, uuid4())

        response = APIClient(headers={"Authorization": f"Bearer {token}"}).get(URL)

        assert ids(response) == [str(own.pk)]

    def test_foreign_organization_is_404(self, charlie, team, alice):
        record(alice, team, uuid4())

        assert client_of(charlie).get(f"{URL}?organization={team.pk}").status_code == 404
        assert ids(client_of(charlie).get(URL)) == []

    def test_suspended_organization_is_403(self, alice, team):
        record(alice, team, uuid4())
        organizations.suspend_organization(organization=team)

        response = client_of(alice).get(f"{URL}?organization={team.pk}")

        assert (response.status_code, response.json()["code"]) == (403, "organization-suspended")

    def test_removed_member_sees_no_calls(self, alice, team, bob):
        call = record(bob, team, uuid4())
        organizations.remove_member(organization=team, by=alice, user_id=bob.pk)

        assert client_of(bob).get(f"{URL}/{call.pk}").status_code == 404
        assert client_of(bob).get(f"{URL}?organization={team.pk}").status_code == 404

    def test_key_without_the_scope_is_403(self, alice):
        response = key_client(alice, scopes=["account.view"]).get(URL)

        assert (response.status_code, response.json()["permission"]) == (403, "usage.view")

    def test_anonymous_is_401(self, db):
        assert APIClient().get(URL).status_code == 401

    def test_pages_have_every_call_once_newest_first(self, alice, team):
        calls = [
            record(alice, team, uuid4(), at=NOON + timedelta(minutes=number // 2))
            for number in range(5)
        ]
        client, query = client_of(alice), f"{URL}?organization={team.pk}&limit=2"

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
            record(alice, team, uuid4())

        with django_assert_num_queries(4):  # key, organization, membership, calls
            assert len(ids(client.get(URL))) == 5


class TestFilters:
    def test_conversation(self, alice, team):
        conversation_id = uuid4()
        call = record(alice, team, conversation_id)
        record(alice, team, uuid4())

        calls = listed(client_of(alice), team, conversation=str(conversation_id))

        assert calls == [str(call.pk)]

    def test_since_is_included_and_until_is_not(self, alice, team):
        _, noon, _ = (
            record(alice, team, uuid4(), at=NOON + timedelta(hours=hours)) for hours in (-1, 0, 1)
        )

        calls = listed(
            client_of(alice), team, since="2026-03-10T12:00:00Z", until="2026-03-10T13:00:00Z"
        )

        assert calls == [str(noon.pk)]

    @pytest.mark.parametrize(
        ("name", "value"), [("model", "large"), ("outcome", "failed"), ("outcome", "abandoned")]
    )
    def test_model_and_outcome(self, alice, team, name, value):
        record(alice, team, uuid4())
        call = record(alice, team, uuid4(), **{name: value})

        assert listed(client_of(alice), team, **{name: value}) == [str(call.pk)]

    def test_user(self, alice, team, bob):
        own, bobs = record(alice, team, uuid4()), record(bob, team, uuid4())

        assert listed(client_of(alice), team, user=str(bob.pk)) == [str(bobs.pk)]
        assert listed(client_of(alice), team, user=str(alice.pk)) == [str(own.pk)]
        assert listed(client_of(bob), team, user=str(alice.pk)) == []

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
        response = client_of(alice).get(f"{URL}?{query}")

        body = response.json()
        assert (response.status_code, list(body["errors"])) == (400, [field])
        assert body["detail"].startswith(f"{field}: ")
        assert body["detail"].endswith((".", "\u201d"))


class TestRetrieve:
    def test_one_call(self, alice, team):
        call = record(alice, team, uuid4(), tokens=4)
        client = client_of(alice)

        response = client.get(f"{URL}/{call.pk}")

        assert response.status_code == 200
        assert response.json() == client.get(f"{URL}?organization={team.pk}").json()["items"][0]

    def test_call_of_another_member_needs_view_all(self, alice, team, bob):
        of_alice, of_bob = record(alice, team, uuid4()), record(bob, team, uuid4())

        assert client_of(bob).get(f"{URL}/{of_alice.pk}").status_code == 404
        assert client_of(bob).get(f"{URL}/{of_bob.pk}").status_code == 200
        assert client_of(alice).get(f"{URL}/{of_bob.pk}").status_code == 200

    def test_foreign_call_is_404(self, alice, team, charlie):
        call = record(alice, team, uuid4())

        assert client_of(charlie).get(f"{URL}/{call.pk}").status_code == 404
        bound = key_client(alice, organization=alice.personal_organization)
        assert bound.get(f"{URL}/{call.pk}").status_code == 404

    def test_unknown_call_is_404(self, alice):
        assert client_of(alice).get(f"{URL}/{uuid4()}").status_code == 404
        assert client_of(alice).get(f"{URL}/x").status_code == 404

    @pytest.mark.parametrize("method", ["put", "patch", "delete"])
    def test_call_cannot_be_changed(self, alice, team, method):
        call = record(alice, team, uuid4())

        assert getattr(client_of(alice), method)(f"{URL}/{call.pk}").status_code == 405
        assert client_of(alice).post(URL, {}, "json").status_code == 405
