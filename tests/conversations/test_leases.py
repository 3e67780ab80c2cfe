from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import GatewayToken
from conversations import services
from conversations.models import Lease, LiveManager
from tests.factories.conversations import LeaseFactory


def renew_manager(owner, *, capacity=100, followed=0):
    services.renew_manager(owner=owner, capacity=capacity, followed=followed)


def claim(owner, limit=10):
    renew_manager(owner)
    return services.claim_conversations(owner=owner, limit=limit)


def expire_manager(owner):
    # Well before the start of the test's transaction, which is the present time to PostgreSQL.
    LiveManager.objects.filter(owner=owner).update(expires_at=timezone.now() - timedelta(hours=1))


@pytest.fixture
def unclaimed(running):
    """Return a running conversation whose lease has no owner."""
    Lease.objects.update(owner="", generation=0)
    return running


class TestClaiming:
    def test_conversation_is_claimed_by_one_manager(self, unclaimed):
        [lease] = claim("a")

        assert (lease.conversation_id, lease.generation) == (unclaimed.pk, 1)
        assert claim("b") == []

    def test_claim_returns_at_most_its_limit(self, unclaimed):
        assert claim("a", limit=0) == []
        assert len(claim("a", limit=1)) == 1

    def test_stopped_conversation_is_not_claimed_again(self, unclaimed):
        services.stop_sandbox(conversation_id=unclaimed.pk)
        [lease] = claim("a")
        assert services.find_engine(conversation_id=unclaimed.pk, generation=1) is None

        services.release_leases(owner="a", conversation_ids=[lease.conversation_id], followed=0)

        assert not Lease.objects.get().is_wanted
        assert claim("a") == []

    def test_deleted_conversation_is_not_claimed_again(self, unclaimed):
        assert len(claim("a")) == 1
        services.delete_conversation(conversation_id=unclaimed.pk)

        services.release_leases(owner="a", conversation_ids=[unclaimed.pk], followed=0)

        assert claim("b") == []

    def test_unregistered_manager_claims_nothing(self, unclaimed):
        assert services.claim_conversations(owner="a", limit=10) == []
        assert len(claim("a")) == 1

    def test_expired_manager_claims_nothing(self, unclaimed):
        renew_manager("a")
        expire_manager("a")

        assert services.claim_conversations(owner="a", limit=10) == []
        assert len(claim("a")) == 1


class TestTakeover:
    def test_leases_of_an_expired_manager_are_claimed_with_a_new_generation(self, unclaimed):
        claim("a")
        expire_manager("a")

        assert services.free_expired_leases(owner="b") == 1

        [lease] = claim("b")
        assert lease.generation == 2
        assert services.list_leases(owner="a") == {}
        with pytest.raises(services.StaleLease):
            services.find_engine(conversation_id=unclaimed.pk, generation=1)

    def test_leases_of_a_live_manager_are_not_freed(self, unclaimed):
        claim("a")

        assert services.free_expired_leases(owner="b") == 0
        assert services.list_leases(owner="a") == {unclaimed.pk: 1}

    def test_expired_manager_that_renews_before_the_takeover_keeps_its_leases(self, unclaimed):
        claim("a")
        expire_manager("a")

        assert services.renew_manager(owner="a", capacity=100, followed=1).was_registered

        assert services.free_expired_leases(owner="b") == 0
        assert services.list_leases(owner="a") == {unclaimed.pk: 1}

    def test_manager_cannot_renew_after_the_takeover(self, unclaimed):
        claim("a")
        expire_manager("a")
        assert services.free_expired_leases(owner="b") == 1

        assert not services.renew_manager(owner="a", capacity=100, followed=1).was_registered

    def test_leases_of_an_unknown_owner_are_freed(self, unclaimed):
        Lease.objects.update(owner="unknown")

        assert services.free_orphaned_leases() == 1
        assert len(claim("a")) == 1

    def test_manager_does_not_free_its_own_expired_leases(self, unclaimed):
        claim("a")
        expire_manager("a")

        assert services.free_expired_leases(owner="a") == 0
        assert services.list_leases(owner="a") == {unclaimed.pk: 1}


class TestRelease:
    def test_released_lease_can_be_claimed_immediately(self, unclaimed):
        claim("a")

        assert services.release_leases(owner="a", conversation_ids=[unclaimed.pk], followed=0) == 1

        assert len(claim("b")) == 1

    def test_lease_of_another_manager_is_not_released(self, unclaimed):
        claim("a")

        assert services.release_leases(owner="b", conversation_ids=[unclaimed.pk], followed=0) == 0
        assert services.list_leases(owner="a") == {unclaimed.pk: 1}

    def test_unregistered_manager_releases_its_leases_and_is_removed(self, unclaimed):
        claim("a")

        assert services.unregister_manager(owner="a") == 1

        assert not LiveManager.objects.exists()
        assert len(claim("b")) == 1

    def test_lease_of_a_running_engine_becomes_claimable_again(self, unclaimed):
        Lease.objects.update(is_wanted=False)
        services.reconcile_sandboxes()

        assert Lease.objects.get().is_wanted


class TestFairShare:
    @pytest.mark.parametrize(
        ("total", "capacity", "all_capacity", "share"),
        [
            (0, 100, 100, 0),
            (10, 100, 100, 10),
            (10, 100, 200, 5),
            (11, 100, 200, 6),
            (1, 100, 2_000, 1),
            (1_000, 100, 2_000, 50),
            (300, 50, 150, 50),  # limited by the capacity
            (90, 200, 300, 60),  # twice the capacity, twice the share
            (7, 100, 0, 7),  # no manager is counted yet, including this one
        ],
    )
    def test_share_is_proportional_to_the_capacity(self, total, capacity, all_capacity, share):
        computed = services.fair_share(total=total, capacity=capacity, all_capacity=all_capacity)

        assert computed == share

    def test_census_counts_live_managers_and_free_leases(self, db):
        renew_manager("a", followed=3)
        renew_manager("b", followed=1)
        renew_manager("dead", followed=100)
        expire_manager("dead")
        for owner in ("", "", "a"):
            LeaseFactory(owner=owner, is_wanted=True)
        LeaseFactory(owner="", is_wanted=False)

        census = services.take_census(capacity=100)

        assert census == services.Census(managers=2, followed=4, free=2, share=3)

    def test_claim_is_counted_in_the_census_immediately(self, unclaimed):
        claim("a")
        renew_manager("b")

        assert services.take_census(capacity=100).followed == 1

    def test_released_conversation_is_counted_only_as_free(self, unclaimed):
        """Otherwise the manager that released it sees a larger fair share, and claims it again."""
        claim("a")
        renew_manager("b")

        services.release_leases(owner="a", conversation_ids=[unclaimed.pk], followed=0)

        census = services.take_census(capacity=100)
        assert (census.followed, census.free, census.share) == (0, 1, 1)


def test_gateway_tokens_of_followed_conversations_are_extended(unclaimed):
    claim("a")
    GatewayToken.objects.update(expires_at=timezone.now())

    assert services.extend_gateway_tokens(owner="a") == 1

    assert GatewayToken.objects.get().expires_at > timezone.now()


def test_engine_of_a_lease_has_a_connection_a_run_and_a_cursor(unclaimed, engine):
    claim("a")

    location = services.find_engine(conversation_id=unclaimed.pk, generation=1)

    assert (location.run, location.after_seq) == (1, -1)
    with location.dial() as connection:
        assert connection.getpeername() == engine.server_address
    assert location.session_key


def test_claim_uses_the_index_of_claimable_leases(db):
    """A claim reads only the leases in the index, so stopped conversations cost nothing."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(
            "EXPLAIN SELECT conversation_id FROM conversations_lease"
            " WHERE is_wanted AND owner = '' LIMIT 10"
        )
        assert "wanted_lease_by_owner" in str(cursor.fetchall())
