"""The credentials of a stream, the access checks while it is open, and the commands that arrive on it."""

import asyncio
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import Client

from accounts import services as accounts
from accounts.models import ApiKey
from accounts.services import audit
from conversations.realtime import access, threads, watching
from conversations.realtime.access import (
    Credentials,
    MayNotSteer,
    Refusal,
    TooManyCommands,
    Watcher,
)
from conversations.services import conversation_key, rotate_keys
from lib import limits


def build_scope(**headers):
    names = {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()}
    return {"headers": [*names.items(), (b"user-agent", b"x")], "client": ("127.0.0.1", 7)}


def create_api_key(user, **more):
    return accounts.issue_api_key(user=user, name="k", **more)[1]


def create_session_cookie(user):
    client = Client()
    client.force_login(user)
    return f"sessionid={client.cookies['sessionid'].value}"


@pytest.mark.django_db
class TestCredentials:
    def test_headers_authenticate_the_user_of_the_key_or_the_session(self, alice):
        key = create_api_key(alice)
        scopes = [
            build_scope(authorization=f"Bearer {key}"),
            build_scope(x_api_key=key),
            build_scope(cookie=create_session_cookie(alice)),
        ]

        assert [Credentials.from_scope(one).user() for one in scopes] == [alice] * 3

    def test_valid_key_takes_precedence_over_the_headers(self, alice, bob, conversation):
        key = conversation_key(conversation=conversation, user=alice)
        scope_of_bob = build_scope(authorization=f"Bearer {create_api_key(bob)}")

        assert Credentials.from_scope(scope_of_bob, keys=[key]).user() == alice
        assert Credentials.from_scope(scope_of_bob, keys=["oh_x.y", "ocs_x.y"]).user() == bob

    @pytest.mark.parametrize(
        "credentials",
        [Credentials(), Credentials(keys=("oh_x.y", "?")), Credentials.from_scope(build_scope(cookie="a=b"))],
    )  # fmt: skip
    def test_invalid_credentials_authenticate_no_user(self, credentials):
        assert credentials.user() is None

    def test_only_credential_headers_of_a_handshake_are_kept(self):
        credentials = Credentials.from_scope(build_scope(origin="http://x", cookie="a=b"))

        assert credentials == Credentials(((b"cookie", b"a=b"),), address="127.0.0.1")

    def test_credentials_that_end_during_a_check_are_the_reason_of_the_refusal(
        self, alice, conversation, monkeypatch
    ):
        row, key = accounts.issue_api_key(user=alice, name="k")
        credentials = Credentials(keys=(key,))
        question = Watcher(credentials, conversation.pk).question
        unknown = question._replace(conversation_id=UUID(int=1))
        find = access._find_refusals

        assert access.check_each([unknown]) == {unknown: (alice.pk, Refusal.NOT_VISIBLE)}

        def find_after_revocation(user, questions):
            ApiKey.objects.filter(pk=row.pk).delete()
            return find(user, questions)

        monkeypatch.setattr(access, "_find_refusals", find_after_revocation)
        answers = access.check_each([question, unknown])
        assert answers == dict.fromkeys([question, unknown], (None, Refusal.UNAUTHENTICATED))

    def test_rotated_conversation_key_authenticates_no_user(self, alice, conversation):
        credentials = Credentials(keys=(conversation_key(conversation=conversation, user=alice),))
        assert credentials.user() == alice

        rotate_keys(conversation_id=conversation.pk)

        assert credentials.user() is None


@pytest.mark.django_db
class TestCheckAccess:
    def test_refusal_names_its_reason(self, alice, bob, charlie, conversation):
        conversation.visibility = "organization"
        conversation.save()

        def check(user, permission=access.VIEW):
            organization = conversation.organization if user in (alice, bob) else None
            keys = (create_api_key(user, organization=organization),) if user else ()
            return Watcher(Credentials(keys=keys), conversation.pk, permission).check_access_now()

        bob.memberships.update(role="viewer")
        assert check(alice) is None
        assert check(bob) is None
        assert check(bob, "conversations.steer") is Refusal.NOT_PERMITTED
        assert check(charlie) is Refusal.NOT_VISIBLE
        assert check(None) is Refusal.UNAUTHENTICATED


@pytest.mark.django_db
class TestAuthorizedCommand:
    def create_watcher(self, conversation, *keys, headers=None):
        credentials = Credentials.from_scope(headers or build_scope(), keys=keys)
        return Watcher(credentials, conversation.pk)

    def test_audit_actor_is_the_key_or_the_user(self, alice, conversation):
        row, key = accounts.issue_api_key(user=alice, name="k")
        actors = []
        for watcher in (
            self.create_watcher(conversation, key),
            self.create_watcher(
                conversation, conversation_key(conversation=conversation, user=alice)
            ),
            self.create_watcher(
                conversation, headers=build_scope(cookie=create_session_cookie(alice))
            ),
        ):
            with watcher.authorized_command():
                actors.append(audit.current_actor())

        assert [(actor.kind, actor.id) for actor in actors] == [
            ("key", str(row.pk)),
            ("key", str(conversation.pk)),
            ("person", str(alice.pk)),
        ]
        assert {actor.address for actor in actors} == {"127.0.0.1"}

    def test_command_of_a_stranger_or_an_anonymous_client_is_refused(self, charlie, conversation):
        for keys, refusal in (
            ((create_api_key(charlie),), Refusal.NOT_VISIBLE),
            ((), Refusal.UNAUTHENTICATED),
        ):
            with (
                pytest.raises(MayNotSteer) as refused,
                self.create_watcher(conversation, *keys).authorized_command(),
            ):
                pytest.fail("the command was not refused")
            assert refused.value.extra["refusal"] is refusal

    def test_commands_count_against_the_spending_rate_limit(
        self, alice, conversation, settings, monkeypatch
    ):
        settings.RATE_LIMITS = {"spend": "2/m"}
        watcher = self.create_watcher(conversation, create_api_key(alice))
        for _ in range(2):
            with watcher.authorized_command():
                pass

        with pytest.raises(TooManyCommands, match="Try again in"), watcher.authorized_command():
            pytest.fail("the third command was not refused")

        def fail_to_count(*args, **kwargs):
            raise limits.NotCounted

        monkeypatch.setattr(limits, "count", fail_to_count)
        with pytest.raises(TooManyCommands, match="cannot check"), watcher.authorized_command():
            pytest.fail("an uncounted command was not refused")


@pytest.mark.django_db(transaction=True)
class TestWatching:
    @pytest.fixture(autouse=True)
    async def _close(self, settings):
        settings.SOCKET_PING_SECONDS = settings.SOCKET_RECHECK_SECONDS = 1
        yield
        await sync_to_async(connections.close_all)()
        threads.POOL._pool.submit(connections.close_all).result()

    async def start_watcher(self, row_and_key, conversation):
        watcher = Watcher(Credentials(keys=(row_and_key[1],)), conversation.pk)
        assert await watcher.check_access() is None
        ended = asyncio.Event()
        watching.start_watching(watcher, watching.UnpingedStream(ended.set))
        return watcher, ended

    async def test_watchers_with_equal_credentials_share_one_check_and_end_together(
        self, alice, conversation, monkeypatch
    ):
        row_and_key = await sync_to_async(accounts.issue_api_key)(user=alice, name="k")
        checked, check_each = [], watching.check_each
        watchers = [await self.start_watcher(row_and_key, conversation) for _ in range(5)]
        monkeypatch.setattr(
            watching,
            "check_each",
            lambda questions: (checked.extend(questions), check_each(questions))[1],
        )
        assert len({id(watcher.credentials) for watcher, _ in watchers}) == 1

        await sync_to_async(accounts.revoke_api_key)(key=row_and_key[0])
        for _, ended in watchers:
            await asyncio.wait_for(ended.wait(), 10)

        assert len(set(checked)) == 1
        assert {watcher.refusal for watcher, _ in watchers} == {Refusal.UNAUTHENTICATED}
        for watcher, _ in watchers:
            watching.stop_watching(watcher)
            watching.stop_watching(watcher)

    async def test_watcher_that_joins_after_access_ended_is_checked_again(
        self, alice, conversation
    ):
        """The watcher is checked before the key is revoked, and joins after the others were refused."""
        row_and_key = await sync_to_async(accounts.issue_api_key)(user=alice, name="k")
        first, ended = await self.start_watcher(row_and_key, conversation)
        late = Watcher(Credentials(keys=(row_and_key[1],)), conversation.pk)
        assert await late.check_access() is None
        await sync_to_async(accounts.revoke_api_key)(key=row_and_key[0])
        await asyncio.wait_for(ended.wait(), 10)

        late_ended = asyncio.Event()
        watching.start_watching(late, watching.UnpingedStream(late_ended.set))

        await asyncio.wait_for(late_ended.wait(), 10)
        assert late.refusal is Refusal.UNAUTHENTICATED
        watching.stop_watching(first)
        watching.stop_watching(late)
