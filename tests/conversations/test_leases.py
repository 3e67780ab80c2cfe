from datetime import timedelta

import pytest
from django.utils import timezone

from billing.models import GatewayToken
from conversations import services
from conversations.models import Lease


def claim(owner, limit=10):
    return services.claim_conversations(owner=owner, limit=limit)


@pytest.fixture
def free(running):
    Lease.objects.update(owner="", expires_at=timezone.now() - timedelta(seconds=1), generation=0)
    return running


def test_one_manager_gets_it(free):
    [mine] = claim("a")

    assert (mine.conversation_id, mine.generation) == (free.pk, 1)
    assert claim("b") == []


def test_expired_lease_is_taken_over_with_a_new_generation(free):
    claim("a")
    Lease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

    [theirs] = claim("b")

    assert theirs.generation == 2
    assert services.renew_leases(owner="a") == {}
    assert services.renew_leases(owner="b") == {free.pk: 2}
    with pytest.raises(services.StaleLease):
        services.place_to_follow(conversation_id=free.pk, generation=1)


def test_handed_back_it_is_free_at_once(free):
    claim("a")

    assert services.release_leases(owner="a") == 1

    assert len(claim("b")) == 1


def test_sleeping_conversations_are_not_claimed(free):
    services.stop_sandbox(conversation_id=free.pk)

    assert claim("a") == []


def test_limit(free):
    assert claim("a", limit=0) == []


def test_following_keeps_the_gateway_open(free):
    claim("a")
    GatewayToken.objects.update(expires_at=timezone.now())

    assert services.keep_gateway_open(owner="a") == 1

    assert GatewayToken.objects.get().expires_at > timezone.now()


def test_place_to_follow(free, engine):
    claim("a")

    place = services.place_to_follow(conversation_id=free.pk, generation=1)

    assert (place.base_url, place.run, place.after_seq) == (engine.url, 1, -1)
    assert place.session_key
