"""Hostile input by name: events and frames of a broken or compromised engine, and texts of users."""

import json

_ID = "0b6d5a9e-8f0c-4f5e-9a39-6f2f6f0f4f11"
_DEEP = 100_000


def _event(**fields: object) -> bytes:
    base = {"id": _ID, "kind": "MessageEvent", "source": "user"}
    return json.dumps(base | fields).encode()


def _raw(fields: bytes) -> bytes:
    return b'{"id":"%s","kind":"MessageEvent","source":"user",%s}' % (_ID.encode(), fields)


EVENTS: dict[str, bytes] = {
    # Strict JSON, which is stored unchanged.
    "plain": _event(text="hello"),
    "empty object": b"{}",
    "spaces": b' {\n\t"id" : "a" ,\r\n "kind":"K"} ',
    "NUL escape": _raw(rb'"text":"a\u0000b"'),
    "NUL escape in a key": _raw(rb'"a\u0000":1'),
    "lone high surrogate": _raw(rb'"text":"\ud800"'),
    "lone low surrogate": _raw(rb'"text":"x\udfffy"'),
    "swapped surrogates": _raw(rb'"text":"\udc00\ud800"'),
    "surrogate in a key": _raw(rb'"\ud83d":1'),
    "valid surrogate pair": _raw(rb'"text":"\ud83d\ude00"'),
    "emoji and rtl": _event(text="👩‍👩‍👧 \u202e abc \u0301 \ufeff \u2028 \u2029"),
    "noncharacters": _raw('"text":"\uffff\U0010ffff\ufdd0"'.encode()),
    "DEL and C1": _raw('"text":"\x7f\x80\x9f"'.encode()),
    "1e400": _raw(b'"n":1e400'),
    "minus 1e400": _raw(b'"n":-1e400'),
    "tiny": _raw(b'"n":1e-400'),
    "long fraction": _raw(b'"n":0.' + b"3" * 5_000),
    "integer of 4,301 digits": _raw(b'"n":' + b"9" * 4_301),
    "integer of 100,000 digits": _raw(b'"n":-' + b"7" * 100_000),
    "minus zero": _raw(b'"n":-0'),
    "2**53 + 1": _raw(b'"n":9007199254740993'),
    "duplicate keys": _raw(b'"a":1,"a":2,"id":"second"'),
    "many keys": _event(**{f"k{n}": n for n in range(20_000)}),
    "long string": _event(text="x" * 1_000_000),
    "HTML": _event(text="</script><script>alert(1)</script><img src=x onerror=alert(1)>"),
    "terminal escapes": _event(text="\x1b[2J\x1b]0;title\x07\x1b[31mred"),
    "SQL": _event(text="'; DROP TABLE conversations_event; --"),
    "format strings": _event(text="%s %n {0} {{7*7}} ${jndi:ldap://x}"),
    "prototype": _raw(b'"__proto__":{"admin":true},"constructor":{}'),
    "quotes and braces in strings": _event(text='"}],{"[' * 1_000),
    "flat, many brackets": _event(items=[{"a": []}] * 5_000),
    # Missing or invalid ids, kinds and sources.
    "no id": b'{"kind":"MessageEvent","source":"user"}',
    "no kind": b'{"id":"a1","source":"user"}',
    "empty id": _event(id=""),
    "id is a number": _event(id=7),
    "id is null": _event(id=None),
    "id is an object": _event(id={"a": 1}),
    "id with NUL": _event(id="a\0b"),
    "id with a newline": _event(id="a\n"),
    "id too long": _event(id="i" * 81),
    "id not ASCII": _event(id="é"),
    "id is a lone surrogate": b'{"id":"\\ud800","kind":"K"}',
    "kind is a list": _event(kind=["MessageEvent"]),
    "kind with NUL": _event(kind="Message\0Event"),
    "kind too long": _event(kind="K" * 81),
    "kind with markup": _event(kind="<b>"),
    "kind empty": _event(kind=""),
    "source unknown": _event(source="server"),
    "source is a list": _event(source=["user"]),
    "timestamp nonsense": _event(timestamp="yesterday"),
    "timestamp is a number": _event(timestamp=1e300),
    "timestamp overflows": _event(timestamp="0001-01-01T00:00:00+23:59"),
    "timestamp long": _event(timestamp="2026-01-01T00:00:00" + "0" * 10_000),
    "state of odd types": _event(
        kind="ConversationStateUpdateEvent",
        key="full_state",
        value={"execution_status": ["running"]},
    ),
    "state of odd stats": _event(
        kind="ConversationStateUpdateEvent", key="stats", value={"usage_to_metrics": {"agent": [1]}}
    ),
    "an array": b"[1,2,3]",
    "a string": b'"text"',
    "null": b"null",
    "a number": b"1",
    # Not strict JSON, or too deep for JSON parsers. These are stored as base64.
    "NaN": _raw(b'"n":NaN'),
    "Infinity": _raw(b'"n":-Infinity'),
    "leading zero": _raw(b'"n":01'),
    "plus": _raw(b'"n":+1'),
    "hexadecimal": _raw(b'"n":0x10'),
    "trailing comma": _raw(b'"a":1,'),
    "single quotes": b"{'id':'a'}",
    "comment": b'{"id":"a"}/* c */',
    "two values": b'{"id":"a"}{"id":"b"}',
    "cut off": b'{"id":"a","kind":"K","text":"unfin',
    "empty": b"",
    "only spaces": b"  ",
    "byte order mark": b'\xef\xbb\xbf{"id":"a"}',
    "UTF-16": '{"id":"a"}'.encode("utf-16"),
    "raw NUL in a string": _raw(b'"text":"a\0b"'),
    "raw NUL outside": b'{"id":"a"\0}',
    "raw control character": _raw(b'"text":"a\x01b"'),
    "raw newline in a string": _raw(b'"text":"a\nb"'),
    "bad escape": _raw(rb'"text":"\q"'),
    "short escape": _raw(rb'"text":"\u12"'),
    "invalid UTF-8": _raw(b'"text":"\xff\xfe"'),
    "overlong UTF-8": _raw(b'"text":"\xc0\x80"'),
    "surrogate in UTF-8": _raw(b'"text":"\xed\xa0\x80"'),
    "cut UTF-8": _raw(b'"text":"\xf0\x9f\x98"'),
    "beyond Unicode": _raw(b'"text":"\xf4\x90\x80\x80"'),
    "pickle": b"\x80\x04\x95cos\nsystem\n.",
    "gzip": b"\x1f\x8b\x08\x00" + bytes(range(256)),
    "deep arrays": _raw(b'"d":' + b"[" * _DEEP + b"]" * _DEEP),
    "deep objects": b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
    "deep and open": b"[" * _DEEP,
    "501 deep": b"[" * 501 + b"]" * 501,
}
"""Bodies in the place of an event of the engine."""

TEXTS: dict[str, str] = {
    "empty": "",
    "space": " ",
    "NUL": "a\0b",
    "lone surrogate": "a\ud800b",
    "control characters": "".join(map(chr, range(32))),
    "emoji": "👩‍👩‍👧",
    "right to left": "\u202eabc\u202c",
    "combining": "e" + "\u0301" * 1_000,
    "noncharacter": "\uffff\U0010ffff",
    "line separators": "a\u2028b\u2029c\x85d",
    "byte order mark": "\ufeffa",
    "HTML": "</script><script>alert(1)</script>",
    "SQL": "'; DROP TABLE accounts_user; --",
    "template": "{{ 7*7 }}{% debug %}${7*7}",
    "percent": "%s%d%n%%",
    "path": "../../../../etc/passwd\0.png",
    "URL": "javascript:alert(1)",
    "header": "a\r\nSet-Cookie: b=c",
    "terminal": "\x1b[2J\x1b]0;title\x07",
    "CSV": '=HYPERLINK("http://evil.example","x")',
    "long": "x" * 1_000_000,
}
"""Texts that users may send as a title, a message or a name. Some cannot be encoded as UTF-8."""


def frame(event: bytes, *, seq: int = 3) -> bytes:
    """Return a frame of the engine's session socket around an event."""
    return b'{"type":"durable","seq":%d,"event":%s}' % (seq, event)


FRAMES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"hello",
    "null": b"null",
    "an array": b"[]",
    "no type": b'{"seq":1,"event":{}}',
    "unknown type": b'{"type":"later","seq":1}',
    "type is a number": b'{"type":1}',
    "type is a surrogate": b'{"type":"\\ud800"}',
    "durable without seq": b'{"type":"durable","event":{}}',
    "durable without event": b'{"type":"durable","seq":1}',
    "negative seq": b'{"type":"durable","seq":-1,"event":{}}',
    "seq is text": b'{"type":"durable","seq":"1","event":{}}',
    "seq is a fraction": b'{"type":"durable","seq":1.5,"event":{}}',
    "seq is true": b'{"type":"durable","seq":true,"event":{}}',
    "seq of 64 bits": b'{"type":"durable","seq":9223372036854775808,"event":{}}',
    "seq of 10,000 digits": b'{"type":"durable","seq":' + b"9" * 10_000 + b',"event":{}}',
    "seq NaN": b'{"type":"durable","seq":NaN,"event":{}}',
    "delta without text": b'{"type":"delta","item_id":"a","order":0}',
    "delta of a number": b'{"type":"delta","item_id":"a","order":0,"content":1}',
    "delta of a surrogate": b'{"type":"delta","item_id":"a","order":0,"content":"\\ud800"}',
    "invalid UTF-8": b'{"type":"error","code":"\xff","detail":""}',
    "deep": b"[" * _DEEP,
    "deep extra field": b'{"type":"sync","x":' + b"[" * _DEEP + b"]" * _DEEP + b"}",
}
"""Invalid frames of the session socket."""
