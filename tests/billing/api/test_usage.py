"""``/api/v1/usage`` and ``/api/v1/usage/totals``."""

from datetime import timedelta
from uuid import uuid4

import pytest
from rest_framework.test import APIClient
from uuid_utils.compat import uuid7

from accounts.services import organizations, service_accounts
from billing.models import ModelCall
from billing.services import usage as usage_services
from tests.billing.api.conftest import NOON, client_of, member, record
from tests.conftest import key_client

URL = "/api/v1/usage"
TOTALS = f"{URL}/totals"
SUMMED = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_micros")
NOTHING = {"calls": 0} | dict.fromkeys(SUMMED, 0)
MARCH = {"since": "2026-03-01T00:00:00Z", "until": "2026-04-01T00:00:00Z"}


def spent(tokens, calls=1):
    """Return the totals of calls with this number of prompt tokens."""
    return {
        "calls": calls,
        "prompt_tokens": tokens,
        "completion_tokens": tokens // 2,
        "cached_tokens": 0,
        "cost_micros": tokens,
    }


def sums_of(calls):
    """Sum calls in Python, one by one."""
    return {"calls": len(calls)} | {
        name: sum(getattr(call, name) for call in calls) for name in SUMMED
    }


class TestList:
    def test_sums_of_each_conversation_and_totals(self, alice, team):
        first, second = uuid7(), uuid7()
        for conversation_id, tokens in ((first, 10), (first, 20), (second, 4)):
            record(alice, team, conversation_id, tokens=tokens)

        body = client_of(alice).get(f"{URL}?organization={team.pk}").json()

        where = {"organization": str(team.pk)}
        assert body == {
            "items": [
                {"conversation": str(second)} | where | spent(4),
                {"conversation": str(first)} | where | spent(30, calls=2),
            ],
            "next": None,
            "totals": spent(34, calls=3),
        }
        assert body["totals"] == sums_of(ModelCall.objects.all())

    def test_organization_without_calls(self, alice):
        assert client_of(alice).get(URL).json() == {"items": [], "next": None, "totals": NOTHING}

    def test_without_organization_lists_the_personal_one(self, alice, team):
        record(alice, alice.personal_organization, uuid7(), tokens=2)
        record(alice, team, uuid7(), tokens=4)

        body = client_of(alice).get(URL).json()

        assert (len(body["items"]), body["totals"]) == (1, spent(2))

    @pytest.mark.parametrize(
        ("role", "tokens"),
        [
            *(("owner", 12), ("admin", 12), ("billing", 12), ("auditor", 12)),
            *(("member", 2), ("viewer", 2)),
        ],
    )
    def test_role_decides_between_own_and_all_conversations(self, alice, team, role, tokens):
        user = member(team, role)
        record(alice, team, uuid7(), tokens=10)
        record(user, team, uuid7(), tokens=2)

        body = client_of(user).get(f"{URL}?organization={team.pk}").json()

        assert body["totals"]["cost_micros"] == tokens
        assert sum(row["cost_micros"] for row in body["items"]) == tokens

    def test_key_lists_its_own_organization_only(self, alice, team):
        record(alice, alice.personal_organization, uuid7(), tokens=1)
        record(alice, team, uuid7(), tokens=2)
        client = key_client(alice, organization=team)

        assert client.get(URL).json()["totals"]["cost_micros"] == 2
        personal = alice.personal_organization.pk
        assert client.get(f"{URL}?organization={personal}").status_code == 404

    def test_owners_key_without_view_all_lists_own_conversations(self, alice, team, bob):
        record(bob, team, uuid7(), tokens=1)
        record(alice, team, uuid7(), tokens=2)
        client = key_client(alice, organization=team, scopes=["usage.view"])

        body = client.get(URL).json()

        assert (len(body["items"]), body["totals"]["cost_micros"]) == (1, 2)

    def test_service_account_lists_its_own_conversations(self, alice, team):
        account = service_accounts.create_service_account(
            organization=team, by=alice, name="ci", role="member"
        )
        _, token = service_accounts.issue_service_account_key(account=account, by=alice, name="x")
        record(alice, team, uuid7(), tokens=1)
        record(account.user, team, uuid7(), tokens=2)
        client = APIClient(headers={"Authorization": f"Bearer {token}"})

        assert client.get(URL).json()["totals"] == spent(2)
        assert client.get(TOTALS, MARCH).json()["totals"] == spent(2)

    def test_pages_have_every_conversation_once_and_totals_on_the_first(self, alice, team):
        conversations = [uuid7() for _ in range(5)]
        for conversation_id in conversations:
            record(alice, team, conversation_id, tokens=1)
        client, query = client_of(alice), f"{URL}?organization={team.pk}&limit=2"

        first = client.get(query).json()
        second = client.get(f"{query}&cursor={first['next']}").json()
        third = client.get(f"{query}&cursor={second['next']}").json()

        rows = [row["conversation"] for page in (first, second, third) for row in page["items"]]
        assert rows == [str(conversation_id) for conversation_id in reversed(conversations)]
        assert third["next"] is None
        assert (first["totals"]["calls"], second["totals"], third["totals"]) == (5, None, None)

    def test_number_of_queries_is_fixed(self, alice, team, django_assert_num_queries):
        client = key_client(alice, organization=team)
        client.get(URL)
        for _ in range(5):
            record(alice, team, uuid7())

        with django_assert_num_queries(5):  # key, organization, membership, sums, totals
            assert len(client.get(URL).json()["items"]) == 5

    @pytest.mark.parametrize(
        ("query", "field"),
        [("organization=x", "organization"), ("since=x", "since"), ("cursor=x", "cursor")],
    )
    def test_bad_query_is_400_with_a_sentence(self, alice, query, field):
        response = client_of(alice).get(f"{URL}?{query}")

        assert (response.status_code, list(response.json()["errors"])) == (400, [field])
        assert response.json()["detail"].startswith(f"{field}: ")


class TestRetrieve:
    def test_sums_of_one_conversation(self, alice, team):
        conversation_id = uuid7()
        record(alice, team, conversation_id, tokens=8)

        body = client_of(alice).get(f"{URL}/{conversation_id}").json()

        where = {"conversation": str(conversation_id), "organization": str(team.pk)}
        assert body == where | spent(8)

    def test_conversation_of_another_member_needs_view_all(self, alice, team, bob):
        of_alice, of_bob = uuid7(), uuid7()
        record(alice, team, of_alice)
        record(bob, team, of_bob)

        assert client_of(bob).get(f"{URL}/{of_alice}").status_code == 404
        assert client_of(bob).get(f"{URL}/{of_bob}").status_code == 200
        assert client_of(alice).get(f"{URL}/{of_bob}").status_code == 200

    def test_foreign_and_unknown_conversations_are_404(self, alice, team, charlie):
        conversation_id = uuid7()
        record(alice, team, conversation_id)

        assert client_of(charlie).get(f"{URL}/{conversation_id}").status_code == 404
        assert client_of(alice).get(f"{URL}/{uuid7()}").status_code == 404
        bound = key_client(alice, organization=alice.personal_organization)
        assert bound.get(f"{URL}/{conversation_id}").status_code == 404


class TestTotals:
    def get(self, user, team, **query):
        response = client_of(user).get(TOTALS, {"organization": str(team.pk)} | MARCH | query)
        assert response.status_code == 200, response.json()
        return response.json()

    def test_by_day_in_utc_oldest_first(self, alice, team):
        last_second = NOON.replace(hour=23, minute=59, second=59)
        record(alice, team, uuid4(), tokens=10, at=last_second + timedelta(seconds=1))
        record(alice, team, uuid4(), tokens=2, at=last_second)
        record(alice, team, uuid4(), tokens=4, at=NOON)

        body = self.get(alice, team)

        nobody = {"model": None, "user": None}
        assert body == {
            "organization": str(team.pk),
            "since": "2026-03-01T00:00:00Z",
            "until": "2026-04-01T00:00:00Z",
            "by": "day",
            "totals": spent(16, calls=3),
            "items": [
                {"day": "2026-03-10"} | nobody | spent(6, calls=2),
                {"day": "2026-03-11"} | nobody | spent(10),
            ],
            "is_complete": True,
        }

    def test_by_model_highest_cost_first(self, alice, team):
        record(alice, team, uuid4(), tokens=2, model="small")
        record(alice, team, uuid4(), tokens=10, model="large")
        record(alice, team, uuid4(), tokens=4, model="small")

        items = self.get(alice, team, by="model")["items"]

        assert items == [
            {"day": None, "model": "large", "user": None} | spent(10),
            {"day": None, "model": "small", "user": None} | spent(6, calls=2),
        ]

    def test_by_user_with_names(self, alice, team, bob):
        record(alice, team, uuid4(), tokens=2)
        record(bob, team, uuid4(), tokens=4)

        items = self.get(alice, team, by="user")["items"]

        assert [(row["user"], row["cost_micros"]) for row in items] == [
            ({"id": str(bob.pk), "email": bob.email, "name": "Member"}, 4),
            ({"id": str(alice.pk), "email": alice.email, "name": "Alice"}, 2),
        ]
        assert {(row["day"], row["model"]) for row in items} == {(None, None)}

    @pytest.mark.parametrize("by", ["day", "model", "user"])
    def test_totals_and_groups_equal_the_calls(self, alice, team, bob, by):
        for number in range(12):
            record(
                (alice, bob)[number % 2],
                team,
                uuid4(),
                tokens=number * 2,
                at=NOON + timedelta(hours=9 * number),
                model=f"model {number % 3}",
            )
        record(alice, alice.personal_organization, uuid4(), tokens=100)

        body = self.get(alice, team, by=by)

        expected = sums_of(ModelCall.objects.filter(organization=team))
        assert body["totals"] == expected
        assert {name: sum(row[name] for row in body["items"]) for name in expected} == expected

    @pytest.mark.parametrize("by", ["model", "user"])
    def test_groups_are_bounded_and_totals_are_not(self, alice, team, monkeypatch, by):
        monkeypatch.setattr(usage_services, "GROUPS_MAX", 2)
        for number, user in enumerate((alice, member(team, "member"), member(team, "viewer")), 1):
            record(user, team, uuid4(), tokens=number * 2, model=f"model {number}")

        body = self.get(alice, team, by=by)

        assert [row["cost_micros"] for row in body["items"]] == [6, 4]
        assert (body["totals"], body["is_complete"]) == (spent(12, calls=3), False)

    def test_period_has_its_beginning_and_not_its_end(self, alice, team):
        record(alice, team, uuid4(), tokens=2, at=NOON)
        record(alice, team, uuid4(), tokens=4, at=NOON + timedelta(hours=1))
        record(alice, team, uuid4(), tokens=8, at=NOON - timedelta(seconds=1))

        body = self.get(alice, team, since="2026-03-10T12:00:00Z", until="2026-03-10T13:00:00Z")

        assert body["totals"] == spent(2)

    @pytest.mark.parametrize("query", [{"until": "2026-04-01T00:00:00Z"}, {}])
    def test_default_period_is_thirty_days(self, alice, team, query, time_machine):
        time_machine.move_to("2026-04-01T00:00:00Z", tick=False)
        end = NOON.replace(month=4, day=1, hour=0)
        record(alice, team, uuid4(), tokens=2, at=end - timedelta(days=30))
        record(alice, team, uuid4(), tokens=4, at=end - timedelta(days=30, seconds=1))

        response = client_of(alice).get(TOTALS, {"organization": str(team.pk)} | query).json()

        assert (response["since"], response["totals"]) == ("2026-03-02T00:00:00Z", spent(2))

    @pytest.mark.parametrize("role", ["member", "viewer"])
    @pytest.mark.parametrize("by", ["day", "model", "user"])
    def test_members_get_their_own_calls(self, alice, team, role, by):
        user = member(team, role)
        record(alice, team, uuid4(), tokens=10)
        record(user, team, uuid4(), tokens=2)

        body = self.get(user, team, by=by)

        assert body["totals"] == spent(2)
        assert alice.email not in str(body)

    @pytest.mark.parametrize("role", ["admin", "billing", "auditor"])
    def test_roles_with_view_all_get_all_calls(self, alice, team, role):
        record(alice, team, uuid4(), tokens=10)

        assert self.get(member(team, role), team)["totals"] == spent(10)

    def test_organization_without_calls(self, alice, team):
        body = self.get(alice, team)

        assert (body["totals"], body["items"], body["is_complete"]) == (NOTHING, [], True)

    def test_foreign_organization_is_404(self, charlie, team):
        assert client_of(charlie).get(f"{TOTALS}?organization={team.pk}").status_code == 404

    def test_suspended_organization_is_403(self, alice, team):
        organizations.suspend_organization(organization=team)

        response = client_of(alice).get(f"{TOTALS}?organization={team.pk}")

        assert (response.status_code, response.json()["code"]) == (403, "organization-suspended")

    def test_key_without_the_scope_is_403(self, alice):
        response = key_client(alice, scopes=["account.view"]).get(TOTALS)

        assert (response.status_code, response.json()["permission"]) == (403, "usage.view")

    @pytest.mark.parametrize(
        ("query", "field", "sentence"),
        [
            ("by=hour", "by", '"hour" is not a valid choice.'),
            ("since=x", "since", "Datetime has wrong format."),
            ("organization=x", "organization", "Must be a valid UUID."),
            (
                "since=2026-03-02T00:00:00Z&until=2026-03-01T00:00:00Z",
                "until",
                "The end of the period must be later than its beginning.",
            ),
            (
                "since=2024-01-01T00:00:00Z&until=2026-01-01T00:00:00Z",
                "since",
                "A period has at most 366 days. Send a later `since`.",
            ),
            ("until=0001-01-01T00:00:00Z", "until", "This date is too early."),
            ("limit=5", "limit", "This route has no such parameter."),
        ],
    )
    def test_bad_query_is_400_with_a_sentence(self, alice, query, field, sentence):
        response = client_of(alice).get(f"{TOTALS}?{query}")

        assert (response.status_code, list(response.json()["errors"])) == (400, [field])
        assert response.json()["detail"].startswith(f"{field}: {sentence}")

    def test_costs_one_query_beside_the_checks(self, alice, team, django_assert_num_queries):
        client = key_client(alice, organization=team)
        client.get(TOTALS)
        for number in range(5):
            record(alice, team, uuid4(), at=NOON + timedelta(days=number))

        with django_assert_num_queries(4):  # key, organization, membership, sums
            assert len(client.get(TOTALS, MARCH).json()["items"]) == 5
