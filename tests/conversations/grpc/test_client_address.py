"""The client's address of a gRPC call: that of the connection, or the one that a trusted proxy reports."""

import grpc
import pytest

from accounts import services as accounts
from conversations.grpc.interceptors import _client_address
from conversations.grpc.v1 import events_pb2 as wire
from tests.conversations.grpc.conftest import Client, run_server
from tests.factories.conversations import ConversationFactory

PROXY = "ipv4:10.0.0.1:5000"


@pytest.mark.parametrize(
    ("peer", "metadata", "address"),
    [
        (PROXY, [("x-forwarded-for", "203.0.113.7:51234")], "203.0.113.7"),
        (PROXY, [("x-forwarded-for", "6.6.6.6, [2001:db8::7]:1, 10.0.0.2")], "2001:db8::7"),
        (
            PROXY,
            [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.7")],
            "203.0.113.7",
        ),
        (PROXY, [("x-forwarded-for", "6.6.6.6, nonsense")], "10.0.0.1"),
        (PROXY, [("forwarded", "for=203.0.113.7")], "10.0.0.1"),
        (PROXY, [("trace-bin", b"\xff"), ("x-forwarded-for", "203.0.113.7")], "203.0.113.7"),
        (PROXY, [], "10.0.0.1"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:5000", [("x-forwarded-for", "203.0.113.7")], "203.0.113.7"),
        ("ipv4:198.51.100.9:5000", [("x-forwarded-for", "203.0.113.7")], "198.51.100.9"),
        ("unix:", [("x-forwarded-for", "203.0.113.7")], "203.0.113.7"),
        ("unix:", [], ""),
    ],
)
def test_address_behind_trusted_proxies(settings, peer, metadata, address):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8", "unix"]

    assert _client_address(peer, metadata) == address


@pytest.mark.parametrize("metadata", [[], [("x-forwarded-for", "203.0.113.7")]])
def test_address_without_trusted_proxies_is_that_of_the_connection(settings, metadata):
    settings.TRUSTED_PROXIES = []

    assert _client_address(PROXY, metadata) == "10.0.0.1"


def test_forwarded_header_is_read_if_configured(settings):
    settings.TRUSTED_PROXIES, settings.TRUST_FORWARDED = ["10.0.0.0/8"], True
    metadata = [("x-forwarded-for", "9.9.9.9"), ("forwarded", 'for="[2001:db8::7]:1"')]

    assert _client_address(PROXY, metadata) == "2001:db8::7"


@pytest.mark.slow
def test_key_for_a_network_works_through_a_trusted_proxy(transactional_db, tmp_path):
    user = accounts.create_user(email="a@example.com")
    conversation = ConversationFactory(created_by=user, organization=user.personal_organization)
    _, token = accounts.issue_api_key(user=user, name="x", allowed_networks=["203.0.113.0/24"])
    request = wire.GetLastSeqRequest(conversation_id=str(conversation.pk))
    with (
        run_server(tmp_path / "log", TRUSTED_PROXIES="127.0.0.0/8") as (_, port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        client = Client(channel, token)
        with pytest.raises(grpc.RpcError) as refused:
            client.call("GetLastSeq", request)
        client.metadata.append(("x-forwarded-for", "203.0.113.7:51234"))
        client.call("GetLastSeq", request)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
