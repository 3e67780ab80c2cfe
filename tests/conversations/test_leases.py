from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import GatewayToken
from conversations import services
from conversations.models import Lease, LiveManager
from tests.factories.conversations import LeaseFactory


def manager(owner, *, capacity=100, followed=0):
    services.renew_manager(owner=owner, capacity=capacity, followed=followed)


def claim(owner, limit=10):
    manager(owner)
    return services.claim_conversations(owner=owner, limit=limit)


def die(owner):
    LiveManager.objects.filter(owner=owner).update(expires_at=timezone.now() - timedelta(seconds=1))


@pytest.fixture
def free(running):
    Lease.objects.update(owner="", generation=0)
    return running


class TestClaiming:
    def test_one_manager_gets_it(self, free):
        [mine] = claim("a")

        assert (mine.conversation_id, mine.generation) == (free.pk, 1)
        assert claim("b") == []

    def test_limit(self, free):
        assert claim("a", limit=0) == []

    def test_sleeping_conversations_are_not_claimed(self, free):
        services.stop_sandbox(conversation_id=free.pk)
        [mine] = claim("a")
        assert services.find_engine(conversation_id=free.pk, generation=1) is None

        services.release_leases(owner="a", conversation_ids=[mine.conversation_id])

        assert not Lease.objects.get().is_wanted
        assert claim("a") == []

    def test_deleted_ones_are_not_wanted_any_more(self, free):
        claim("a")
        services.delete_conversation(conversation_id=free.pk)

        services.release_leases(owner="a", conversation_ids=[free.pk])

        assert claim("b") == []

    def test_who_is_not_registered_gets_none(self, free):
        assert services.claim_conversations(owner="a", limit=10) == []

    def test_who_is_taken_for_dead_gets_none(self, free):
        manager("a")
        die("a")

        assert services.claim_conversations(owner="a", limit=10) == []


class TestTakeover:
    def test_what_a_dead_manager_held_is_free_with_a_new_generation(self, free):
        claim("a")
        die("a")

        assert services.free_expired_leases(owner="b") == 1

        [theirs] = claim("b")
        assert theirs.generation == 2
        assert services.list_leases(owner="a") == {}
        with pytest.raises(services.StaleLease):
            services.find_engine(conversation_id=free.pk, generation=1)

    def test_nothing_is_taken_from_the_living(self, free):
        claim("a")

        assert services.free_expired_leases(owner="b") == 0
        assert services.list_leases(owner="a") == {free.pk: 1}

    def test_one_that_was_late_and_not_yet_buried_goes_on(self, free):
        claim("a")
        die("a")

        assert services.renew_manager(owner="a", capacity=100, followed=1)

        assert services.free_expired_leases(owner="b") == 0

    def test_one_that_was_buried_learns_it(self, free):
        claim("a")
        die("a")
        services.free_expired_leases(owner="b")

        assert not services.renew_manager(owner="a", capacity=100, followed=1)

    def test_leases_of_nobody_known_are_freed(self, free):
        Lease.objects.update(owner="of a backup")

        assert services.free_orphaned_leases() == 1
        assert len(claim("a")) == 1

    def test_nobody_judges_itself(self, free):
        claim("a")
        die("a")

        assert services.free_expired_leases(owner="a") == 0


class TestHandingBack:
    def test_it_is_free_at_once(self, free):
        claim("a")

        assert services.release_leases(owner="a", conversation_ids=[free.pk]) == 1

        assert len(claim("b")) == 1

    def test_what_somebody_else_holds_stays(self, free):
        claim("a")

        assert services.release_leases(owner="b", conversation_ids=[free.pk]) == 0
        assert services.list_leases(owner="a") == {free.pk: 1}

    def test_a_manager_that_leaves_hands_all_back_and_is_not_counted(self, free):
        claim("a")

        assert services.unregister_manager(owner="a") == 1

        assert not LiveManager.objects.exists()
        assert len(claim("b")) == 1

    def test_an_engine_that_starts_again_is_wanted_again(self, free):
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
            (300, 50, 150, 50),  # more than there is room for
            (90, 200, 300, 60),  # twice the capacity, twice the share
            (7, 100, 0, 7),  # nobody is counted yet, not even we
        ],
    )
    def test_in_proportion_to_capacity(self, total, capacity, all_capacity, share):
        found = services.fair_share(total=total, capacity=capacity, all_capacity=all_capacity)

        assert found == share

    def test_census_counts_the_living_and_the_free(self, db):
        manager("a", followed=3)
        manager("b", followed=1)
        manager("dead", followed=100)
        die("dead")
        for owner in ("", "", "a"):
            LeaseFactory(owner=owner, is_wanted=True)
        LeaseFactory(owner="", is_wanted=False)

        census = services.take_census(capacity=100)

        assert census == services.Census(managers=2, followed=4, free=2, share=3)

    def test_a_claim_counts_for_others_at_once(self, free):
        claim("a")
        manager("b")

        assert services.take_census(capacity=100).followed == 1


def test_following_keeps_the_gateway_open(free):
    claim("a")
    GatewayToken.objects.update(expires_at=timezone.now())

    assert services.extend_gateway_tokens(owner="a") == 1

    assert GatewayToken.objects.get().expires_at > timezone.now()


def test_place_to_follow(free, engine):
    claim("a")

    place = services.find_engine(conversation_id=free.pk, generation=1)

    assert (place.base_url, place.run, place.after_seq) == (engine.url, 1, -1)
    assert place.session_key


def test_claims_look_at_no_history(db):
    """However many conversations sleep: what is looked at are the wanted leases, by their index."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(
            "EXPLAIN SELECT conversation_id FROM conversations_lease"
            " WHERE is_wanted AND owner = '' LIMIT 10"
        )
        assert "wanted_lease_by_owner" in str(cursor.fetchall())
