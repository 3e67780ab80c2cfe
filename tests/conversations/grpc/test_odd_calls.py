"""Odd gRPC calls: malformed messages, odd values in every field, wrong order, unknown methods, odd metadata."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from accounts import services as accounts
from conversations import services
from tests.hostile import EVENTS
from tests.odd_traffic.choice import SHARES, choose
from tests.odd_values import json_bytes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(170)]
SERVICE = "/openhands.v1.EventService/"
RUN = "018f0000-0000-7000-8000-0000000000ab"
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    """Return a field of a protobuf message: text, bytes or an integer (a varint)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


ODD_BYTES = [
    b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"a\0b", b"x", b"x" * 100_000, b"00000000-0000-0000-0000-000000000000", b"urn:uuid:{00000000-0000-0000-0000-000000000000}", "٣".encode() * 32, b"{}", b"-1", b"null", b"%s%n", b"../..", "\u202e\ufeff".encode(),
]  # fmt: skip
ODD_NUMBERS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
GARBAGE = [
    b"\0", b"\xff", b"\xff" * 20, b"\x08", b"\x0a", b"\x0a\x05a", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a" + b"\xff" * 9 + b"\x01", b"\x08" + b"\xff" * 10 + b"\x01", b"\x09\x01\x02", b"\x0b", b"\x0c", b"\x0b" * 5_000, b"\x0f", b"\x0d\x01",
    b"\x00\x01", field(2**29 - 1, 1), varint(2**32 << 3) + b"\x01", field(1, 7), field(2, b"x"), field(3, b"x"), field(99, b"unknown"), field(1, "a") * 1_000, b"{}", b"null", random.Random(13).randbytes(64), bytes(range(256)), b"\x1f\x8b\x08\x00garbage",
]  # fmt: skip


def requests_of(identifier):
    """Yield the method and the raw messages of odd calls."""
    for raw in GARBAGE:
        for method in ("GetLastSeq", "Subscribe", "Append"):
            yield method, [raw]
        yield "Append", [opening(), raw]
        yield "Append", [field(1, raw)]
        yield "Append", [opening(), field(2, raw)]
        yield "Append", [opening(), field(2, field(2, raw))]
    for value in ODD_BYTES:
        yield "GetLastSeq", [field(1, value)]
        yield "Subscribe", [field(1, value)]
        for number in (1, 2, 3, 4):
            yield "Append", [field(1, opening_fields() + field(number, value))]
        yield "Append", [opening(), batch(value)]
    for number in ODD_NUMBERS:
        yield "Subscribe", [field(1, identifier) + field(2, number)]
        yield "Subscribe", [field(1, identifier) + field(3, number)]
        yield "Subscribe", [field(1, identifier) + field(2, number) + field(3, number)]
        yield "Append", [opening(), field(2, field(1, number))]
        yield "GetLastSeq", [field(1, number)]
    for value in (*EVENTS.values(), *json_bytes().values()):
        if len(value) < 300_000:
            yield "Append", [opening(), batch(value)]
    for value in json_bytes().values():
        if len(value) < 300_000:
            for name in (b"id", b"kind", b"source", b"timestamp", b"key", b"value"):
                fields = {
                    b"id": b'"a1"',
                    b"kind": b'"ConversationStateUpdateEvent"',
                    b"source": b'"environment"',
                    b"key": b'"execution_status"',
                    b"value": b'"running"',
                } | {name: value}
                yield (
                    "Append",
                    [
                        opening(),
                        batch(
                            b"{" + b",".join(b'"%s":%s' % pair for pair in fields.items()) + b"}"
                        ),
                    ],
                )
    yield "Append", []
    yield "Append", [batch(b"{}")]
    yield "Append", [opening(), opening()]
    yield "Append", [b""]
    yield "Append", [opening(), b""]
    yield "Append", [opening(), field(2, b"")]
    yield "Append", [opening(), batch(*[b'{"id":"b%d"}' % n for n in range(501)])]
    yield "Append", [opening() + batch(b"{}")]
    yield "Append", [opening(identifier)]
    yield "Append", [field(1, field(1, RUN) + field(2, identifier))]
    yield "GetLastSeq", [b"x" * 5_000_000]
    yield "Subscribe", [field(1, identifier * 100_000)]


def opening_fields(identifier=RUN):
    return field(1, identifier) + field(3, "Odd")


def opening(identifier=RUN):
    return field(1, opening_fields(identifier))


def batch(*events):
    return field(2, field(1, 1) + b"".join(field(2, field(1, event)) for event in events))


OTHERS = {
    "/grpc.health.v1.Health/Check": False,
    "/grpc.health.v1.Health/Watch": False,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": True,
    SERVICE + "Nothing": False,
    "/x/y": False,
    "//": False,
    "/": False,
    "/openhands.v1.EventService": False,
    "/openhands.v1.EventService/getlastseq": False,
    "/grpc.reflection.x/y": False,
}
"""Further methods, and whether the request is a stream."""


class Caller:
    """Sends raw messages, and collects what came back by method and status."""

    def __init__(self, channel, key):
        self.channel, self.metadata = channel, [("authorization", f"Bearer {key}")]
        self.outcomes, self.failures = Counter(), []

    def call(self, method, messages, is_stream=None):
        """Call a method with raw messages; store a failure."""
        path = method if method.startswith("/") else SERVICE + method
        is_stream = method == "Append" if is_stream is None else is_stream
        make = self.channel.stream_stream if is_stream else self.channel.unary_stream
        function = make(path, request_serializer=None, response_deserializer=None)
        message = iter(messages) if is_stream else messages[0]
        call = function(message, timeout=30, metadata=self.metadata)
        try:
            for _ in call:
                # A subscription or a watch stays open.
                if path.endswith(("Subscribe", "Watch")):
                    call.cancel()
                    break
            code, details = grpc.StatusCode.OK, ""
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
        self.outcomes[method.rpartition("/")[2], code.name] += 1
        # The health service of grpcio sends no sentence.
        is_bare = code is not grpc.StatusCode.OK and not details and "Health" not in method
        if code in FAULTS or code is grpc.StatusCode.DEADLINE_EXCEEDED or is_bare:
            self.failures.append((method, [message[:80] for message in messages], code, details))


def run(caller, calls, share):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda call: caller.call(*call), choose(calls, share)))
    print(dict(caller.outcomes))
    assert not caller.failures


@pytest.fixture
def caller(server, channel, alice):
    """A caller with Alice's key, after whose test the log has no traceback, and a usual call still works."""
    key = accounts.issue_api_key(user=alice, name="grpc")[1]
    before = len(server.log.read_text(errors="replace"))
    yield Caller(channel, key)
    written = server.log.read_text(errors="replace")[before:]
    assert "Traceback" not in written, written[:8_000]
    after = Caller(channel, key)
    after.call("GetLastSeq", [field(1, RUN)])
    assert after.outcomes.keys() <= {("GetLastSeq", "OK"), ("GetLastSeq", "NOT_FOUND")}


@pytest.mark.parametrize("share", SHARES)
def test_odd_call_of_the_event_service_gets_a_status_with_a_sentence(caller, alice, share):
    conversation = services.create_conversation(user=alice)
    run(caller, [*requests_of(str(conversation.pk))], min(1, 3 * share))


@pytest.mark.parametrize("share", SHARES)
def test_odd_call_of_another_method_gets_a_status(caller, share):
    texts = (b"", field(1, b"\xff"), field(1, b"x"), field(3, "a"), field(4, b"\xff"), field(7, ""))
    calls = [
        (method, [message], is_stream)
        for method, is_stream in OTHERS.items()
        for message in (*GARBAGE, *texts)
    ]
    run(caller, calls, share)


@pytest.mark.parametrize(
    "method",
    [SERVICE + "GetLastSeq", SERVICE + "Subscribe", SERVICE + "Append", *list(OTHERS)[:3]],
)
def test_message_that_cannot_be_parsed_is_an_invalid_argument(caller, method):
    caller.call(method, [b"\xff"], OTHERS.get(method, method.endswith("Append")))
    assert list(caller.outcomes) == [(method.rpartition("/")[2], "INVALID_ARGUMENT")]


def test_malformed_message_without_a_key_is_unauthenticated_before_it_is_parsed(channel, caller):
    stranger = Caller(channel, "oh_x.y")
    stranger.call("GetLastSeq", [b"\xff"])
    assert list(stranger.outcomes) == [("GetLastSeq", "UNAUTHENTICATED")]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic x",
        "Bearer oh_",
        "Bearer a.b.c",
        "x" * 5_000,
        "Bearer oh_x.y, z",
    ],
)
def test_odd_key_in_the_metadata_is_unauthenticated(channel, caller, value):
    odd = Caller(channel, "")
    odd.metadata = [("authorization", value), ("x-odd-bin", b"\xff"), ("authorization", value)]
    odd.call("GetLastSeq", [field(1, RUN)])
    assert list(odd.outcomes) == [("GetLastSeq", "UNAUTHENTICATED")]
