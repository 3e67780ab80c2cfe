import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AppendRequest(_message.Message):
    __slots__ = ("open", "batch")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    open: OpenRun
    batch: Batch
    def __init__(self, open: _Optional[_Union[OpenRun, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class OpenRun(_message.Message):
    __slots__ = ("conversation_id", "organization_id", "title", "model")
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    conversation_id: str
    organization_id: str
    title: str
    model: str
    def __init__(self, conversation_id: _Optional[str] = ..., organization_id: _Optional[str] = ..., title: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("number", "events")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    number: int
    events: _containers.RepeatedCompositeFieldContainer[PublishedEvent]
    def __init__(self, number: _Optional[int] = ..., events: _Optional[_Iterable[_Union[PublishedEvent, _Mapping]]] = ...) -> None: ...

class PublishedEvent(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("opened", "appended")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    appended: Appended
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., appended: _Optional[_Union[Appended, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("conversation_id", "last_seq", "epoch", "last_event_id")
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    conversation_id: str
    last_seq: int
    epoch: int
    last_event_id: str
    def __init__(self, conversation_id: _Optional[str] = ..., last_seq: _Optional[int] = ..., epoch: _Optional[int] = ..., last_event_id: _Optional[str] = ...) -> None: ...

class Appended(_message.Message):
    __slots__ = ("number", "last_seq", "stored", "known")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    number: int
    last_seq: int
    stored: int
    known: int
    def __init__(self, number: _Optional[int] = ..., last_seq: _Optional[int] = ..., stored: _Optional[int] = ..., known: _Optional[int] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("conversation_id", "after_seq", "epoch")
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    conversation_id: str
    after_seq: int
    epoch: int
    def __init__(self, conversation_id: _Optional[str] = ..., after_seq: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("event", "reset", "status_json")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    STATUS_JSON_FIELD_NUMBER: _ClassVar[int]
    event: Event
    reset: Reset
    status_json: bytes
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., status_json: _Optional[bytes] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("seq", "event_id", "kind", "source", "payload", "received_at")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    event_id: str
    kind: str
    source: str
    payload: bytes
    received_at: _timestamp_pb2.Timestamp
    def __init__(self, seq: _Optional[int] = ..., event_id: _Optional[str] = ..., kind: _Optional[str] = ..., source: _Optional[str] = ..., payload: _Optional[bytes] = ..., received_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("last_seq", "epoch")
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    last_seq: int
    epoch: int
    def __init__(self, last_seq: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class GetLastSeqRequest(_message.Message):
    __slots__ = ("conversation_id",)
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    conversation_id: str
    def __init__(self, conversation_id: _Optional[str] = ...) -> None: ...

class GetLastSeqResponse(_message.Message):
    __slots__ = ("last_seq", "epoch", "last_event_id")
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    last_seq: int
    epoch: int
    last_event_id: str
    def __init__(self, last_seq: _Optional[int] = ..., epoch: _Optional[int] = ..., last_event_id: _Optional[str] = ...) -> None: ...
