"""Who opened a stream, whether they may still watch, and how the commands that arrive by it count."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import Client

from accounts import services as accounts
from accounts.services import audit
from conversations.realtime import access, threads
from conversations.realtime.access import (
    Credentials,
    MayNotSteer,
    Refusal,
    TooManyCommands,
    UnpingedStream,
    Watcher,
)
from conversations.services import conversation_key, rotate_keys
from lib import limits


def scope(**headers):
    names = {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()}
    return {"headers": [*names.items(), (b"user-agent", b"x")], "client": ("127.0.0.1", 7)}


def api_key(user, **more):
    return accounts.issue_api_key(user=user, name="k", **more)[1]


def cookie_of(user):
    client = Client()
    client.force_login(user)
    return f"sessionid={client.cookies['sessionid'].value}"


@pytest.mark.django_db
class TestCredentials:
    def test_headers_open_as_the_user_of_the_key_or_the_session(self, alice):
        key = api_key(alice)
        shown = [
            scope(authorization=f"Bearer {key}"),
            scope(x_api_key=key),
            scope(cookie=cookie_of(alice)),
        ]

        assert [Credentials.from_scope(one).user() for one in shown] == [alice] * 3

    def test_keys_are_tried_before_the_headers(self, alice, bob, conversation):
        key = conversation_key(conversation=conversation, user=alice)
        shown = scope(authorization=f"Bearer {api_key(bob)}")

        assert Credentials.from_scope(shown, keys=[key]).user() == alice
        assert Credentials.from_scope(shown, keys=["oh_x.y", "ocs_x.y"]).user() == bob

    @pytest.mark.parametrize(
        "credentials",
        [Credentials(), Credentials(keys=("oh_x.y", "?")), Credentials.from_scope(scope(cookie="a=b"))],
    )  # fmt: skip
    def test_nothing_valid_opens_as_nobody(self, credentials):
        assert credentials.user() is None

    def test_only_credentials_are_kept_of_a_handshake(self):
        kept = Credentials.from_scope(scope(origin="http://x", cookie="a=b"))

        assert kept == Credentials(((b"cookie", b"a=b"),), address="127.0.0.1")

    def test_ended_key_is_nobody(self, alice, conversation):
        held = Credentials(keys=(conversation_key(conversation=conversation, user=alice),))
        assert held.user() == alice

        rotate_keys(conversation_id=conversation.pk)

        assert held.user() is None


@pytest.mark.django_db
class TestLook:
    def test_refusals_tell_why(self, alice, bob, charlie, conversation):
        conversation.visibility = "organization"
        conversation.save()

        def look(user, permission=access.VIEW):
            here = conversation.organization if user in (alice, bob) else None
            keys = (api_key(user, organization=here),) if user else ()
            return Watcher(Credentials(keys=keys), conversation.pk, permission).check_access_now()

        bob.memberships.update(role="viewer")
        assert look(alice) is None
        assert look(bob) is None
        assert look(bob, "conversations.steer") is Refusal.NOT_PERMITTED
        assert look(charlie) is Refusal.NOT_VISIBLE
        assert look(None) is Refusal.UNAUTHENTICATED


@pytest.mark.django_db
class TestCommanding:
    def watcher(self, conversation, *keys, headers=None):
        credentials = Credentials.from_scope(headers or scope(), keys=keys)
        return Watcher(credentials, conversation.pk)

    def test_audit_actor_is_the_key_or_the_person(self, alice, conversation):
        row, key = accounts.issue_api_key(user=alice, name="k")
        by_session = Client()
        by_session.force_login(alice)
        actors = []
        for watcher in (
            self.watcher(conversation, key),
            self.watcher(conversation, conversation_key(conversation=conversation, user=alice)),
            self.watcher(conversation, headers=scope(cookie=cookie_of(alice))),
        ):
            with watcher.authorized_command():
                actors.append(audit.current_actor())

        assert [(actor.kind, actor.id) for actor in actors] == [
            ("key", str(row.pk)),
            ("key", str(conversation.pk)),
            ("person", str(alice.pk)),
        ]
        assert {actor.address for actor in actors} == {"127.0.0.1"}

    def test_command_of_a_stranger_or_nobody_is_refused(self, charlie, conversation):
        for keys, refusal in (
            ((api_key(charlie),), Refusal.NOT_VISIBLE),
            ((), Refusal.UNAUTHENTICATED),
        ):
            with (
                pytest.raises(MayNotSteer) as refused,
                self.watcher(conversation, *keys).authorized_command(),
            ):
                pytest.fail("somebody steered")
            assert refused.value.extra["refusal"] is refusal

    def test_commands_count_against_the_rate_of_spending(
        self, alice, conversation, settings, monkeypatch
    ):
        settings.RATE_LIMITS = {"spend": "2/m"}
        watcher = self.watcher(conversation, api_key(alice))
        for _ in range(2):
            with watcher.authorized_command():
                pass

        with pytest.raises(TooManyCommands, match="Try again in"), watcher.authorized_command():
            pytest.fail("the third passed")

        def away(*args, **kwargs):
            raise limits.NotCounted

        monkeypatch.setattr(limits, "count", away)
        with pytest.raises(TooManyCommands, match="cannot check"), watcher.authorized_command():
            pytest.fail("uncounted passed")


@pytest.mark.django_db(transaction=True)
class TestWatching:
    @pytest.fixture(autouse=True)
    async def _close(self, settings):
        settings.SOCKET_PING_SECONDS = settings.SOCKET_RECHECK_SECONDS = 1
        yield
        await sync_to_async(connections.close_all)()
        threads.POOL._pool.submit(connections.close_all).result()

    async def opened(self, row_and_key, conversation):
        watcher = Watcher(Credentials(keys=(row_and_key[1],)), conversation.pk)
        assert await watcher.check_access() is None
        ended = asyncio.Event()
        access.start_watching(watcher, UnpingedStream(ended.set))
        return watcher, ended

    async def test_equal_credentials_share_one_look_and_end_together(
        self, alice, conversation, monkeypatch
    ):
        issued = await sync_to_async(accounts.issue_api_key)(user=alice, name="k")
        looks, look = [], Watcher.check_access_now
        many = [await self.opened(issued, conversation) for _ in range(5)]
        monkeypatch.setattr(
            Watcher, "check_access_now", lambda self: (looks.append(self), look(self))[1]
        )
        assert len({id(watcher.credentials) for watcher, _ in many}) == 1

        await sync_to_async(accounts.revoke_api_key)(key=issued[0])
        for _, ended in many:
            await asyncio.wait_for(ended.wait(), 10)

        assert len(set(looks)) == 1
        assert {watcher.refusal for watcher, _ in many} == {Refusal.UNAUTHENTICATED}
        for watcher, _ in many:
            await access.stop_watching(watcher)
            await access.stop_watching(watcher)

    async def test_watcher_that_joins_after_access_ended_is_checked_anew(self, alice, conversation):
        """It looked before the change, and joins when the others with its credentials were refused already."""
        issued = await sync_to_async(accounts.issue_api_key)(user=alice, name="k")
        first, ended = await self.opened(issued, conversation)
        late = Watcher(Credentials(keys=(issued[1],)), conversation.pk)
        assert await late.check_access() is None
        await sync_to_async(accounts.revoke_api_key)(key=issued[0])
        await asyncio.wait_for(ended.wait(), 10)

        late_ended = asyncio.Event()
        access.start_watching(late, UnpingedStream(late_ended.set))

        await asyncio.wait_for(late_ended.wait(), 10)
        assert late.refusal is Refusal.UNAUTHENTICATED
        await access.stop_watching(first)
        await access.stop_watching(late)
