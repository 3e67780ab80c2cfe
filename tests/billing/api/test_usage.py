"""``/api/v1/usage`` and ``/api/v1/usage/totals``: sums of conversations, days, models and users."""

from datetime import timedelta
from uuid import uuid4

import pytest
from rest_framework.test import APIClient
from uuid_utils.compat import uuid7

from accounts.services import organizations, service_accounts
from billing.models import ModelCall
from billing.services import usage as usage_services
from tests.billing.api.conftest import NOON, add_member, open_session, record_call
from tests.conftest import key_client

URL = "/api/v1/usage"
TOTALS = f"{URL}/totals"
SUMMED = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_micros")
NOTHING = {"calls": 0} | dict.fromkeys(SUMMED, 0)
MARCH = {"since": "2026-03-01T00:00:00Z", "until": "2026-04-01T00:00:00Z"}


def expected_totals(tokens, calls=1):
    """Return the totals of calls with this number of prompt tokens."""
    return {
        "calls": calls,
        "prompt_tokens": tokens,
        "completion_tokens": tokens // 2,
        "cached_tokens": 0,
        "cost_micros": tokens,
    }


def sum_calls(calls):
    """Sum calls in Python, one by one."""
    return {"calls": len(calls)} | {
        name: sum(getattr(call, name) for call in calls) for name in SUMMED
    }


class TestList:
    def test_response_has_sums_of_each_conversation_and_totals(self, alice, team):
        first, second = uuid7(), uuid7()
        for conversation_id, tokens in ((first, 10), (first, 20), (second, 4)):
            record_call(alice, team, conversation_id, tokens=tokens)

        body = open_session(alice).get(f"{URL}?organization={team.pk}").json()

        where = {"organization": str(team.pk)}
        assert body == {
            "items": [
                {"conversation": str(second)} | where | expected_totals(4),
                {"conversation": str(first)} | where | expected_totals(30, calls=2),
            ],
            "next": None,
            "totals": expected_totals(34, calls=3),
        }
        assert body["totals"] == sum_calls(ModelCall.objects.all())

    def test_organization_without_calls_has_zero_totals(self, alice):
        assert open_session(alice).get(URL).json() == {"items": [], "next": None, "totals": NOTHING}

    def test_without_organization_lists_the_personal_one(self, alice, team):
        record_call(alice, alice.personal_organization, uuid7(), tokens=2)
        record_call(alice, team, uuid7(), tokens=4)

        body = open_session(alice).get(URL).json()

        assert (len(body["items"]), body["totals"]) == (1, expected_totals(2))

    @pytest.mark.parametrize(
        ("role", "tokens"),
        [
            *(("owner", 12), ("admin", 12), ("billing", 12), ("auditor", 12)),
            *(("member", 2), ("viewer", 2)),
        ],
    )
    def test_role_decides_between_own_and_all_conversations(self, alice, team, role, tokens):
        user = add_member(team, role)
        record_call(alice, team, uuid7(), tokens=10)
        record_call(user, team, uuid7(), tokens=2)

        body = open_session(user).get(f"{URL}?organization={team.pk}").json()

        assert body["totals"]["cost_micros"] == tokens
        assert sum(row["cost_micros"] for row in body["items"]) == tokens

    def test_key_lists_its_own_organization_only(self, alice, team):
        record_call(alice, alice.personal_organization, uuid7(), tokens=1)
        record_call(alice, team, uuid7(), tokens=2)
        client = key_client(alice, organization=team)

        assert client.get(URL).json()["totals"]["cost_micros"] == 2
        personal = alice.personal_organization.pk
        assert client.get(f"{URL}?organization={personal}").status_code == 404

    def test_owners_key_without_view_all_lists_own_conversations(self, alice, team, bob):
        record_call(bob, team, uuid7(), tokens=1)
        record_call(alice, team, uuid7(), tokens=2)
        client = key_client(alice, organization=team, scopes=["usage.view"])

        body = client.get(URL).json()

        assert (len(body["items"]), body["totals"]["cost_micros"]) == (1, 2)

    def test_service_account_lists_its_own_conversations(self, alice, team):
        account = service_accounts.create_service_account(
            organization=team, by=alice, name="ci", role="member"
        )
        _, token = service_accounts.issue_service_account_key(account=account, by=alice, name="x")
        record_call(alice, team, uuid7(), tokens=1)
        record_call(account.user, team, uuid7(), tokens=2)
        client = APIClient(headers={"Authorization": f"Bearer {token}"})

        assert client.get(URL).json()["totals"] == expected_totals(2)
        assert client.get(TOTALS, MARCH).json()["totals"] == expected_totals(2)

    def test_pages_have_every_conversation_once_and_totals_on_the_first(self, alice, team):
        conversations = [uuid7() for _ in range(5)]
        for conversation_id in conversations:
            record_call(alice, team, conversation_id, tokens=1)
        client, query = open_session(alice), f"{URL}?organization={team.pk}&limit=2"

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
            record_call(alice, team, uuid7())

        with django_assert_num_queries(5):  # key, organization, membership, sums, totals
            assert len(client.get(URL).json()["items"]) == 5

    @pytest.mark.parametrize(
        ("query", "field"),
        [("organization=x", "organization"), ("since=x", "since"), ("cursor=x", "cursor")],
    )
    def test_bad_query_is_400_with_a_sentence(self, alice, query, field):
        response = open_session(alice).get(f"{URL}?{query}")

        assert (response.status_code, list(response.json()["errors"])) == (400, [field])
        assert response.json()["detail"].startswith(f"{field}: ")


class TestRetrieve:
    def test_detail_has_the_sums_of_the_conversation(self, alice, team):
        conversation_id = uuid7()
        record_call(alice, team, conversation_id, tokens=8)

        body = open_session(alice).get(f"{URL}/{conversation_id}").json()

        where = {"conversation": str(conversation_id), "organization": str(team.pk)}
        assert body == where | expected_totals(8)

    def test_conversation_of_another_member_needs_view_all(self, alice, team, bob):
        of_alice, of_bob = uuid7(), uuid7()
        record_call(alice, team, of_alice)
        record_call(bob, team, of_bob)

        assert open_session(bob).get(f"{URL}/{of_alice}").status_code == 404
        assert open_session(bob).get(f"{URL}/{of_bob}").status_code == 200
        assert open_session(alice).get(f"{URL}/{of_bob}").status_code == 200

    def test_foreign_and_unknown_conversations_are_404(self, alice, team, charlie):
        conversation_id = uuid7()
        record_call(alice, team, conversation_id)

        assert open_session(charlie).get(f"{URL}/{conversation_id}").status_code == 404
        assert open_session(alice).get(f"{URL}/{uuid7()}").status_code == 404
        bound = key_client(alice, organization=alice.personal_organization)
        assert bound.get(f"{URL}/{conversation_id}").status_code == 404


class TestTotals:
    def get(self, user, team, **query):
        response = open_session(user).get(TOTALS, {"organization": str(team.pk)} | MARCH | query)
        assert response.status_code == 200, response.json()
        return response.json()

    def test_group_by_day_is_in_utc_and_oldest_first(self, alice, team):
        last_second = NOON.replace(hour=23, minute=59, second=59)
        record_call(alice, team, uuid4(), tokens=10, at=last_second + timedelta(seconds=1))
        record_call(alice, team, uuid4(), tokens=2, at=last_second)
        record_call(alice, team, uuid4(), tokens=4, at=NOON)

        body = self.get(alice, team)

        nobody = {"model": None, "user": None}
        assert body == {
            "organization": str(team.pk),
            "since": "2026-03-01T00:00:00Z",
            "until": "2026-04-01T00:00:00Z",
            "by": "day",
            "totals": expected_totals(16, calls=3),
            "items": [
                {"day": "2026-03-10"} | nobody | expected_totals(6, calls=2),
                {"day": "2026-03-11"} | nobody | expected_totals(10),
            ],
            "is_complete": True,
        }

    def test_group_by_model_is_highest_cost_first(self, alice, team):
        record_call(alice, team, uuid4(), tokens=2, model="small")
        record_call(alice, team, uuid4(), tokens=10, model="large")
        record_call(alice, team, uuid4(), tokens=4, model="small")

        items = self.get(alice, team, by="model")["items"]

        assert items == [
            {"day": None, "model": "large", "user": None} | expected_totals(10),
            {"day": None, "model": "small", "user": None} | expected_totals(6, calls=2),
        ]

    def test_group_by_user_has_the_names(self, alice, team, bob):
        record_call(alice, team, uuid4(), tokens=2)
        record_call(bob, team, uuid4(), tokens=4)

        items = self.get(alice, team, by="user")["items"]

        assert [(row["user"], row["cost_micros"]) for row in items] == [
            ({"id": str(bob.pk), "email": bob.email, "name": "Member"}, 4),
            ({"id": str(alice.pk), "email": alice.email, "name": "Alice"}, 2),
        ]
        assert {(row["day"], row["model"]) for row in items} == {(None, None)}

    @pytest.mark.parametrize("by", ["day", "model", "user"])
    def test_totals_and_groups_equal_the_calls(self, alice, team, bob, by):
        for number in range(12):
            record_call(
                (alice, bob)[number % 2],
                team,
                uuid4(),
                tokens=number * 2,
                at=NOON + timedelta(hours=9 * number),
                model=f"model {number % 3}",
            )
        record_call(alice, alice.personal_organization, uuid4(), tokens=100)

        body = self.get(alice, team, by=by)

        expected = sum_calls(ModelCall.objects.filter(organization=team))
        assert body["totals"] == expected
        assert {name: sum(row[name] for row in body["items"]) for name in expected} == expected

    @pytest.mark.parametrize("by", ["model", "user"])
    def test_groups_are_bounded_and_totals_are_not(self, alice, team, monkeypatch, by):
        monkeypatch.setattr(usage_services, "GROUPS_MAX", 2)
        for number, user in enumerate(
            (alice, add_member(team, "member"), add_member(team, "viewer")), 1
        ):
            record_call(user, team, uuid4(), tokens=number * 2, model=f"model {number}")

        body = self.get(alice, team, by=by)

        assert [row["cost_micros"] for row in body["items"]] == [6, 4]
        assert (body["totals"], body["is_complete"]) == (expected_totals(12, calls=3), False)

    def test_period_includes_its_start_and_excludes_its_end(self, alice, team):
        record_call(alice, team, uuid4(), tokens=2, at=NOON)
        record_call(alice, team, uuid4(), tokens=4, at=NOON + timedelta(hours=1))
        record_call(alice, team, uuid4(), tokens=8, at=NOON - timedelta(seconds=1))

        body = self.get(alice, team, since="2026-03-10T12:00:00Z", until="2026-03-10T13:00:00Z")

        assert body["totals"] == expected_totals(2)

    @pytest.mark.parametrize("query", [{"until": "2026-04-01T00:00:00Z"}, {}])
    def test_default_period_is_thirty_days(self, alice, team, query, time_machine):
        time_machine.move_to("2026-04-01T00:00:00Z", tick=False)
        end = NOON.replace(month=4, day=1, hour=0)
        record_call(alice, team, uuid4(), tokens=2, at=end - timedelta(days=30))
        record_call(alice, team, uuid4(), tokens=4, at=end - timedelta(days=30, seconds=1))

        response = open_session(alice).get(TOTALS, {"organization": str(team.pk)} | query).json()

        assert (response["since"], response["totals"]) == (
            "2026-03-02T00:00:00Z",
            expected_totals(2),
        )

    @pytest.mark.parametrize("role", ["member", "viewer"])
    @pytest.mark.parametrize("by", ["day", "model", "user"])
    def test_members_get_their_own_calls(self, alice, team, role, by):
        user = add_member(team, role)
        record_call(alice, team, uuid4(), tokens=10)
        record_call(user, team, uuid4(), tokens=2)

        body = self.get(user, team, by=by)

        assert body["totals"] == expected_totals(2)
        assert alice.email not in str(body)

    @pytest.mark.parametrize("role", ["admin", "billing", "auditor"])
    def test_roles_with_view_all_get_all_calls(self, alice, team, role):
        record_call(alice, team, uuid4(), tokens=10)

        assert self.get(add_member(team, role), team)["totals"] == expected_totals(10)

    def test_organization_without_calls_has_zero_totals(self, alice, team):
        body = self.get(alice, team)

        assert (body["totals"], body["items"], body["is_complete"]) == (NOTHING, [], True)

    def test_foreign_organization_is_404(self, charlie, team):
        assert open_session(charlie).get(f"{TOTALS}?organization={team.pk}").status_code == 404

    def test_suspended_organization_is_403(self, alice, team):
        organizations.suspend_organization(organization=team)

        response = open_session(alice).get(f"{TOTALS}?organization={team.pk}")

        assert (response.status_code, response.json()["code"]) == (403, "organization-suspended")

    def test_key_without_the_scope_is_403(self, alice):
        response = key_client(alice, scopes=["account.view"]).get(TOTALS)

        assert (response.status_code, response.json()["permission"]) == (403, "usage.view")

    @pytest.mark.parametrize(
        ("query", "field", "sentence"),
        [
            ("by=hour", "by", '"hour" is not a valid choice.'),
            ("since=x", "since", "This is not a time. Send a time such as"),
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
            ("limit=5", "limit", "This parameter is not supported here."),
        ],
    )
    def test_bad_query_is_400_with_a_sentence(self, alice, query, field, sentence):
        response = open_session(alice).get(f"{TOTALS}?{query}")

        assert (response.status_code, list(response.json()["errors"])) == (400, [field])
        assert response.json()["detail"].startswith(f"{field}: {sentence}")

    def test_totals_need_one_query_in_addition_to_the_checks(
        self, alice, team, django_assert_num_queries
    ):
        client = key_client(alice, organization=team)
        client.get(TOTALS)
        for number in range(5):
            record_call(alice, team, uuid4(), at=NOON + timedelta(days=number))

        with django_assert_num_queries(4):  # key, organization, membership, sums
            assert len(client.get(TOTALS, MARCH).json()["items"]) == 5
