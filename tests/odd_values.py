"""Odd values for fuzz tests: texts, hosts, ids, numbers, times, cursors, JSON, bodies, headers and parts of URLs.

Each group maps the name of a value, which failures print, to the value. Values in ``JSON`` are JSON texts, because
Python has no value for ``1e999`` or a repeated key. Values in ``ESCAPES`` are already percent-encoded. The values of
``TELLING`` are those that failed on some surface in the past; quick tests send only these.
"""

import base64
import json
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import quote

HUGE = "9" * 400
LABEL = "a" * 64
"""A label of a host name with one character more than DNS allows (RFC 1035, section 2.3.4)."""

TEXTS = {
    "high surrogate": "\ud800",
    "low surrogate": "x\udfffy",
    "surrogates in the wrong order": "\udc00\ud800",
    "NUL": "a\0b",
    "empty": "",
    "blank": " \t\r\n",
    "100 kB": "x" * 100_000,
    "5,000 characters": "é" * 5_000,
    "controls": "\x01\x1b[31m\x7f\x85\x9f",
    "right to left": "\u202eabc\u2066",
    "noncharacters": "\uffff\U0010ffff\ufdd0\ufeff",
    "combining": "e" + "\u0301" * 300,
    "line separators": "a\r\nb\u2028c\x0bd",
    "dotless i": "bıllıng@example.com",
    "ligature": "ﬁ@ex\ufb01.example",
    "percent": "%s%n%(x)s{0}{x}%ZZ",
    "template": "{{ 7*7 }}{% debug %}${x}",
    "SQL": "'; SELECT 1; --\\",
    "LIKE": "%_\\",
    "regular expression": "(a+)+$[",
    "JSON": '{"a": [',
    "path": "../../etc/passwd",
    "absolute path": "//etc//passwd/.",
    "path with NUL": "a/\0/b",
    "long file name": "f" * 300,
    "deep path": "d/" * 3_000,
    "command": "$(id)`id`;|&",
    "leading dash": "--help",
    "comma": ",,,",
    "colon": ":::",
    "at sign": "@@",
    "address of 400 characters": f"{'a' * 200}@{'b' * 200}.example",
    "address with NUL": "a\0@example.com",
    "address with a quote": '"a\r\nBcc: x@example.com"@example.com',
}  # fmt: skip
HOSTS = {
    "dots": "..",
    "one dot": ".",
    "empty": "",
    "empty label": "a..example.com",
    "leading dot": ".example.com",
    "trailing dot": "example.com.",
    "two trailing dots": "example.com..",
    "label of 64": f"{LABEL}.example.com",
    "IDN label over 63": f"{'ü' * 63}.example.com",
    "name of 300": ".".join(["a" * 49] * 6),
    "IDN": "bücher.example",
    "IDN full stop": "a\u3002b\uff0e\u3002example",
    "broken punycode": "xn--\ud800.example",
    "impossible punycode": "xn--a-ecp.ru.xn--999999999999",
    "not normalized": "ｅｘａｍｐｌｅ.com",
    "joiner": "a\u200db.example",
    "soft hyphen": "\u00ad",
    "surrogate": "\ud800.example",
    "NUL": "a\0.example",
    "space": "a b.example",
    "new line": "a\nb.example",
    "percent": "%00.example",
    "star": "*.*.example",
    "two stars": "**",
    "only a star": "*",
    "underscore": "_._tcp.example",
    "dash": "-.example",
    "IPv6": "[::1]",
    "broken IPv6": "[::1",
    "IPv6 with a zone": "[fe80::1%25eth0]",
    "not IPv6": "[x]",
    "IPvFuture": "[v1.x]",
    "many groups": "[" + "1:" * 99 + "]",
    "short IPv4": "127.1",
    "IPv4 as a number": "2130706433",
    "IPv4 in hexadecimal": "0x7f.1",
    "octal IPv4": "0177.0.0.01",
    "IPv4 over 255": "999.999.999.999",
    "huge number": HUGE,
    "Arabic digits": "٣.٣.٣.٣",
    "superscript": "²",
}  # fmt: skip
PORTS = ("", "0", "-1", "65536", HUGE, "8000x", "٣", "²", "80 80", "\ud800")
IDS = {
    "word": "abc",
    "empty": "",
    "zero UUID": "00000000-0000-0000-0000-000000000000",
    "short UUID": "00000000-0000-0000-0000-00000000000",
    "braces": "{12345678-1234-5678-1234-567812345678}",
    "urn": "urn:uuid:12345678-1234-5678-1234-567812345678",
    "upper case": "ABCDEF78-1234-5678-1234-567812345678",
    "no dashes": "12345678123456781234567812345678",
    "wrong dashes": "1-2-3-4-5678123456781234567812345678",
    "underscores": "1234_5678123456781234567812345678",
    "plus": "+2345678123456781234567812345678",
    "hexadecimal": "0x345678123456781234567812345678",
    "Unicode digits": "٣٣٣٣٣٣٣٣-٣٣٣٣-٣٣٣٣-٣٣٣٣-٣٣٣٣٣٣٣٣٣٣٣٣",
    "negative": "-1",
    "zero": "0",
    "not an integer": "1.5",
    "over 32 bits": "2147483648",
    "over 64 bits": "9223372036854775808",
    "400 digits": HUGE,
    "5,000 digits": "1" * 5_000,
    "superscript": "²",
    "Arabic digit": "٣",
    "Roman numeral": "Ⅷ",
    "underscore in a number": "1_0",
    "space before a number": " 1",
    "NaN": "NaN",
    "infinity": "Infinity",
    "exponent": "1e999",
    "null": "null",
    "true": "true",
    "surrogate": "\ud800",
    "NUL": "1\0",
    "brackets": "[]",
    "dots": "..",
    "slash": "a/b",
    "new line": "1\n",
}  # fmt: skip
TIMES = {
    "year 0": "0000-01-01T00:00:00Z",
    "first moment": "0001-01-01T00:00:00+14:00",
    "last moment": "9999-12-31T23:59:59-14:00",
    "last moment, east": "9999-12-31T23:59:59+14:00",
    "year 99999": "99999-01-01T00:00:00Z",
    "negative year": "-0001-01-01T00:00:00Z",
    "only a year": "99999",
    "leap second": "2016-12-31T23:59:60Z",
    "24:00": "2020-01-01T24:00:00Z",
    "25:00": "2020-01-01T25:00:00Z",
    "30 February": "2020-02-30",
    "month 13": "2020-13-45T99:99",
    "offset of 24 hours": "2020-01-01T00:00:00+24:00",
    "offset of 99 hours": "2020-01-01T00:00:00+99:99",
    "offset with seconds": "2020-01-01T00:00:00+01:00:59",
    "many digits": "2020-01-01T00:00:00." + "9" * 400 + "Z",
    "week": "2020-W53-7",
    "ordinal": "2021-366",
    "Arabic digits": "٢٠٢٠-٠١-٠١T٠٠:٠٠:٠٠Z",
    "before the epoch": "1000-01-01",
    "seconds": "1700000000",
    "huge seconds": "99999999999999999999",
    "negative seconds": "-1e308",
    "words": "now",
    "infinity": "infinity",
    "surrogate": "2020-01-01T00:00:00\ud800",
    "period": "P1D",
    "range": "2020-01-01/2020-01-02",
}  # fmt: skip
JSON = {
    "null": "null",
    "true": "true",
    "false": "false",
    "0": "0",
    "-1": "-1",
    "-0.0": "-0.0",
    "1.5": "1.5",
    "1.0": "1.0",
    "1e2": "1e2",
    "2^31": "2147483648",
    "2^63": "9223372036854775808",
    "-2^63-1": "-9223372036854775809",
    "2^64": "18446744073709551616",
    "400 digits": HUGE,
    "5,000 digits": "1" * 5_000,
    "1e308": "1e308",
    "1e999": "1e999",
    "1e-999": "1e-999",
    "10^400 as a float": "1" + "0" * 400 + ".0",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "object": "{}",
    "list": "[]",
    "list of null": "[null]",
    "list of lists": "[[[]]]",
    "list of a surrogate": '["\\ud800"]',
    "list of an object": '[{"a": {"b": "\\udfff"}}]',
    "list of true": "[true, false]",
    "many": "[" + ",".join(["1"] * 20_000) + "]",
    "many texts": "[" + ",".join(['"a"'] * 20_000) + "]",
    "surrogate as a key": '{"\\ud800": 1}',
    "surrogate in an object": '{"a": {"b": ["\\udc00"]}}',
    "NUL as a key": '{"a\\u0000": "b"}',
    "empty key": '{"": ""}',
    "long key": '{"' + "k" * 100_000 + '": 1}',
    "5,000 keys": "{" + ",".join(f'"k{number}": 1' for number in range(5_000)) + "}",
    "repeated key": '{"a": 1, "a": 2}',
    "special keys": '{"__proto__": {}, "__class__": "x", "$ref": "#", "kind": "\\ud800"}',
    "depth 60": "[" * 60 + "]" * 60,
    "depth 500 in objects": '{"a":' * 500 + "1" + "}" * 500,
    "depth 10,000": "[" * 10_000 + "]" * 10_000,
    "open depth 10,000": "[" * 10_000,
    "content part": '[{"type": "text", "text": "\\ud800"}]',
    "content part without text": '[{"type": "text"}, {"type": "\\u0000"}, 1]',
}  # fmt: skip
RAW_JSON = {
    "nothing": b"",
    "not UTF-8": b'"\xff\xfe"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "raw NUL": b'"a\0b"',
    "byte order mark": b"\xef\xbb\xbf1",
    "open string": b'"abc',
    "garbage": b"}{",
    "300 kB": b'"' + b"x" * 300_000 + b'"',
}
"""JSON values as bytes. Most of them are not valid JSON or not UTF-8."""
WORDS = (
    "undefined", "[object Object]", "all", "since", "-1", "+1", "-1e300", "2026-11-29T10:00:00", "20261129T100000Z",
    "1764410400", "1764410400000", "oh_x.y", "ocs_x.y", "oh_\ud800.y", "ocs_\0.\0", "ocs_².y", "eyJhbGciOiJub25lIn0.e30.",
    "eyJh.\xff.x", "a.b.c", "x" * 10_000,
)  # fmt: skip
"""Texts with a meaning in some query: numbers, times, and the beginnings of credentials."""
ESCAPES = {
    "NUL": "%00",
    "surrogate": "%ed%a0%80",
    "not UTF-8": "%ff%fe",
    "half a character": "%c3",
    "overlong": "%c0%80",
    "slash": "%2f",
    "dots": "%2e%2e%2f%2e%2e",
    "new line": "a%0ab",
    "carriage return": "a%0d%0aX:%20y",
    "broken escape": "%zz",
    "percent": "%",
    "escaped percent": "%2500",
    "surrogate of JavaScript": "%ud800",
    "emoji": "%f0%9f%98%80",
    "backslash": "%5c..%5c",
    "semicolon": "a;b=c",
    "quote": "%22%27",
    "plus": "+",
}  # fmt: skip
"""Percent-encoded parts of paths and queries."""
QUERIES = (
    "=", "&&&&", "=1", "%00=1", "%ff=%ff", "a[]=1&a[b]=2", "?", "a=1;b=2", "__class__=x", "format=json", "format=%ff",
    "&".join(["a=1"] * 3_000), "a" * 3_000, "%", "page=-1", "fields=*", "_method=DELETE",
)  # fmt: skip
METHODS = ("HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "POST", "CONNECT", "PROPFIND", "get", "pOsT", "X" * 300, "GET ", "__init__", "dispatch", "initial")  # fmt: skip
HEADERS = (
    *(("Accept", value) for value in ("", "*", "a/b", "text/html;q=x", "application/json; indent=" + HUGE, "*/*;" * 500, "\xff", "application/json;version=\xe9", "text/event-stream", ";", "application/json;q=nan")),
    *(("Accept-Language", value) for value in ("", "\xff", "x" * 5_000, "de;q=" + HUGE, "-,-,-;", "*;q=nan", "zh-\x00", "../../x", "a" * 501 + "-" + "b" * 600, "en;q=٣".encode().decode("latin-1"))),
    *(("Accept-Encoding", value) for value in ("gzip;q=abc", "\xff", "identity;q=0, *;q=0", "br, zstd")),
    *(("Content-Encoding", value) for value in ("gzip", "br", "\xff", "identity, gzip")),
    *(("Content-Type", value) for value in ("", ";", "a", "a/b/c", "text/plain", "application/xml", "application/json; charset=utf-16", "application/json; charset=\xff", "application/json; charset=nonsense", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\xff", "multipart/form-data; boundary=" + "x" * 300, "multipart/mixed; boundary=a", "application/x-www-form-urlencoded; charset=rot13", "application/x-www-form-urlencoded; charset=utf-7", "application/x-www-form-urlencoded; charset=hex", "text/html; charset=idna", "application/problem+json", "*/*", "x" * 5_000)),
    *(("If-None-Match", value) for value in ("*", '"', "W/", "\xff", ",,,", '"a", W/"b', "x" * 5_000)),
    *(("If-Match", value) for value in ("*", "\xff", "0", HUGE)),
    *(("If-Modified-Since", value) for value in ("x", "Sat, 29 Oct 99999 19:43:31 GMT", "Thu, 31 Feb 2020 99:99:99 GMT", "\xff", "Sun Nov  6 08:49:37 0000", "Thu, 01 Jan 0000 00:00:00 GMT")),
    *(("Range", value) for value in ("bytes=-", "bytes=9-1", "bytes=0-" + HUGE, "bytes=-" + HUGE, "bytes=²-٣".encode().decode("latin-1"), "x", "\xff", "bytes=" + "0-1," * 500, "items=0-1")),
    *(("If-Range", value) for value in ("x", "\xff", "Sat, 29 Oct 99999 19:43:31 GMT")),
    *(("Idempotency-Key", value) for value in ("", " ", "\xff", "x" * 5_000, "\xed\xa0\x80", '"a"', "a\tb")),
    *(("Cookie", value) for value in ("=", ";;;", "sessionid", "\xff=\xff", "sessionid=\xff; csrftoken=\xff", "sessionid=" + "x" * 5_000, '$Version=1; a="', "csrftoken=" + "a" * 31, "messages=\xff", 'messages="W1siX19qc29uX21lc3NhZ2UiLDAsMjAsIngiXV0:x:y"', "a=1; " * 500, "sessionid=; sessionid=x", "django_language=../../\xff")),
    *(("Authorization", value) for value in ("", "Bearer", "Bearer ", "Bearer \xff", "Bearer a b", "Basic", "Basic \xff", "Basic Og==", "Basic /////w==", "bearer oh_x.y", "Bearer oh_\xff.\xff", "Bearer oh_" + "x" * 5_000 + ".y", "Bearer oh_..", "Bearer eyJhbGciOiJub25lIn0.e30.", "Bearer a.b.c", "Bearer /w.\xff.x", "Token x", "Digest x", "Bearer " + "e" * 9_000, "Bearer eyJhbGciOiJIUzI1NiIsImtpZCI6Ilx1ZDgwMCJ9.eyJpc3MiOiJcdWQ4MDAifQ.x", "Bearer " + base64.urlsafe_b64encode(b"[" * 3_000).decode() + ".e30.x")),
    *(("X-Session-API-Key", value) for value in ("", "\xff", "oh_\xff.x", "x" * 5_000)),
    *(("X-API-Key", value) for value in ("", "\xff", "oh_..")),
    *(("Host", value) for value in ("..", "", "a..b", "[", "[::1", "x:y", f"{LABEL}.example", "\xff", "testserver:", f"testserver:{HUGE}", "testserver@x", "TESTSERVER.")),
    *(("Origin", value) for value in ("null", "..", "http://..", "http://[", "http://[x]", "\xff", "http://x:y", f"http://{LABEL}.example", f"http://x:{HUGE}", "://")),
    *(("Referer", value) for value in ("http://[", "\xff", "..", "http://x:y", "http://[v1.x]/")),
    *(("X-Forwarded-For", value) for value in ("..", "\xff", "[::1", "1.2.3.4:x", "," * 500, HUGE, "fe80::1%\xff")),
    *(("X-Forwarded-Host", value) for value in ("..", "[", "\xff")),
    *(("X-Forwarded-Proto", value) for value in ("\xff", "https,http", "x" * 3_000)),
    *(("Forwarded", value) for value in ("for=", 'for="[', "\xff", "for=_x;by=\xff;" * 200)),
    *(("X-Request-ID", value) for value in ("", "\xff", "x" * 5_000, "a\tb")),
    *(("X-XSRF-TOKEN", value) for value in ("", "\xff", "x" * 5_000)),
    *(("X-CSRFToken", value) for value in ("\xff", "a" * 32, "a" * 64)),
    *(("X-HTTP-Method-Override", value) for value in ("DELETE", "\xff", "__init__")),
    *(("Content-Disposition", value) for value in ("\xff", "attachment; filename=\xff", "attachment; filename*=utf-16''%ff", "attachment; filename*=x'", "form-data; name=")),
    *(("Last-Event-ID", value) for value in ("abc", "-1", HUGE, "\xff", "²".encode().decode("latin-1"))),
    *(("traceparent", value) for value in ("\xff", "00-0-0-00")),
    *(("Upgrade", "websocket"), ("Upgrade", "\xff"), ("Expect", "x"), ("Prefer", "respond-async; wait=\xff"), ("Sec-Fetch-Site", "\xff"), ("Mcp-Session-Id", "\xff"), ("MCP-Protocol-Version", "\xff")),
)  # fmt: skip
"""Headers as WSGI and ASGI servers pass them on: each character is a byte (latin-1).

Servers refuse an odd ``Content-Length`` themselves. ``tests/odd_traffic`` sends these to a real server.
"""
BODIES = {
    "nothing": b"",
    "NUL": b"\0",
    "null": b"null",
    "number": b"1",
    "text": b'"\\ud800"',
    "list": b"[]",
    "list of objects": b"[{}]",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": "b"}'.encode("utf-16"),
    "UTF-32": '{"a": "b"}'.encode("utf-32-le"),
    "unclosed": b'{"a": "b',
    "half an escape": b'{"a": "\\ud8',
    "two documents": b"{}{}",
    "single quotes": b"{'a': 1}",
    "deep lists": b"[" * 10_000 + b"]" * 10_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "quotes": b'"' * 100_000,
    "backslashes": b'"' + b"\\" * 100_001,
    "digits": b"9" * 100_000,
    "form": b"a=b&c=%ff&d=%ed%a0%80&%00=%00",
    "thousands of fields": b"&".join(b"a%d=1" % number for number in range(5_000)),
    "equals signs": b"=" * 10_000,
    "gzip": b"\x1f\x8b\x08\x00\x00\x00",
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
}  # fmt: skip
CONTENT_TYPES = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "multipart/form-data", "text/plain", "application/octet-stream", "", "application/json; charset=utf-16")  # fmt: skip
BOUNDARY = "b"
MULTIPARTS = {
    "nothing": b"",
    "no boundary": b"hello",
    "only the end": b"--b--\r\n",
    "unclosed": b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx',
    "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
    "no headers": b"--b\r\n\r\nx\r\n--b--\r\n",
    "broken header": b"--b\r\nnonsense\r\n\r\nx\r\n--b--\r\n",
    "huge header": b'--b\r\nContent-Disposition: form-data; name="' + b"n" * 100_000 + b'"\r\n\r\nx\r\n--b--\r\n',
    "many headers": b"--b\r\n" + b"X: y\r\n" * 3_000 + b"\r\nx\r\n--b--\r\n",
    "many parts": b"".join(b'--b\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nx\r\n' % n for n in range(1_500)) + b"--b--\r\n",
    "name not UTF-8": b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\xff\r\n--b--\r\n',
    "broken base64": b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64\r\n\r\n!\xff\r\n--b--\r\n',
    "unknown encoding": b'--b\r\nContent-Disposition: form-data; name="a"; filename*=nonsense\'\'%ff\r\n\r\nx\r\n--b--\r\n',
    "unknown charset": b'--b\r\nContent-Disposition: form-data; name="a"; filename="f"\r\nContent-Type: text/plain; charset=\xff\r\n\r\nx\r\n--b--\r\n',
    "nested": b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n',
}  # fmt: skip
"""Bodies of the content type ``multipart/form-data; boundary=b``."""
FILE_NAMES = ("", "..", "../../x", "/etc/passwd", "a\0b", "\ud800", "f" * 300, "a/b\\c", "C:\\x", ".", " ", "\u202ex", "a\nb", "-rf", "~", "CON", "%2e%2e%2f", "&#0;", "&#xd800;", "&#99999999999;")  # fmt: skip
TELLING = (
    "high surrogate", "surrogate", "NUL", "100 kB", "5,000 characters", "dots", "label of 64", "empty label", "broken IPv6", "not IPv6",
    "braces", "Unicode digits", "5,000 digits", "400 digits", "over 64 bits", "superscript", "last moment", "year 0", "24:00", "1e999",
    "true", "null", "NaN", "10^400 as a float", "list of a surrogate", "surrogate as a key", "surrogate in an object", "long key", "depth 60",
    "not UTF-8", "object", "many texts", "huge number",
)  # fmt: skip


def urls() -> dict[str, str]:
    """Return URLs with each odd host, odd ports and odd schemes."""
    found = {f"URL: {name}": f"https://{host}/v1" for name, host in HOSTS.items()}
    found |= {f"URL: port {port[:9]!a}": f"https://example.com:{port}/v1" for port in PORTS}
    odd = ("https://", "https:///v1", "//example.com", "https:example.com", "javascript:alert(1)", "file:///etc/passwd", "https://u\ud800:p@example.com", "https://example.com/\ud800?\udfff#\ud800", "https://a@b@c/", "https://example.com/%", "https://example.com\\@x/", "ht\ntps://example.com", "data:,x", "https://example.com/" + "a" * 9_000, "gopher://x", "HTTPS://EXAMPLE.COM", "https://[v1.x]/", "https://[::ffff:127.0.0.1]:٣/", "http+unix://%2ftmp%2fx", "\ud800://x", "1://x")  # fmt: skip
    return found | {f"URL: {url[:40]!a}": url for url in odd}


def cursors(valid: str = "") -> dict[str, str]:
    """Return odd cursors: not base64, base64 of odd texts, and truncated and changed forms of a valid cursor."""
    texts = (b"", b"\xff", b"|", b"x|y", b"2020-01-01T00:00:00+00:00|x", b"9999-12-31T23:59:59-23:59|00000000-0000-0000-0000-000000000000", b"0001-01-01T00:00:00+23:59|00000000-0000-0000-0000-000000000000", b"2020-01-01|{12345678123456781234567812345678}", b"2020-W01-1|00000000-0000-0000-0000-000000000000", b"1|2|3", b'{"a": 1}', b"[" * 99, b"-1", b"9" * 120, "²".encode(), b"a\0b")  # fmt: skip
    found = {
        f"cursor of {text[:30]!r}": base64.urlsafe_b64encode(text).decode().rstrip("=")
        for text in texts
    }
    found |= {f"cursor {text[:9]!a}": text for text in ("!", "=", "====", "a", "-", "é", "\ud800", "A" * 199, "A" * 9_000, "null", " ")}  # fmt: skip
    if valid:
        found |= {
            "truncated": valid[:-3],
            "doubled": valid * 2,
            "reversed": valid[::-1],
            "one letter": valid[:1],
        }
    return found


def texts() -> dict[str, str]:
    """Return every odd text: for fields whose meaning is unknown."""
    groups = {"text": TEXTS, "host": HOSTS, "id": IDS, "time": TIMES}
    found = {f"{group}: {name}": value for group, values in groups.items() for name, value in values.items()}  # fmt: skip
    return found | urls() | cursors()


def is_telling(name: str) -> bool:
    """Return whether a value belongs to the quick selection."""
    return name.partition(": ")[2] in TELLING or name in TELLING


def json_texts() -> dict[str, str]:
    """Return every odd value as a JSON text, with texts escaped to ASCII."""
    return {f"JSON: {name}": value for name, value in JSON.items()} | {
        name: json.dumps(value) for name, value in texts().items()
    }


@cache
def json_bytes() -> dict[str, bytes]:
    """Return the telling JSON values as bytes, and values that are not JSON: for a field of a message on a socket."""
    texts = {name: text for name, text in json_texts().items() if is_telling(name)}
    chosen = texts | {f"JSON: {name}": text for name, text in JSON.items()}
    return {name: text.encode() for name, text in chosen.items()} | RAW_JSON


@cache
def query_values() -> tuple[str, ...]:
    """Return odd values of a parameter, percent-encoded: for queries that are sent as bytes."""
    telling = (text for name, text in texts().items() if is_telling(name) and len(text) <= 10_000)
    values = map(to_query, (*telling, *TIMES.values(), *WORDS))
    return *dict.fromkeys(values), *ESCAPES.values()


def to_query(value: str) -> str:
    """Return a text percent-encoded. A lone surrogate becomes the three bytes that JavaScript cannot send, ``%ED…``."""
    return quote(value.encode("utf-8", "surrogatepass"), safe="")


MARK = "replace-me-4711"


def replace_each(body: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(where, body)`` for each value at any depth of a JSON body, with ``MARK`` in place of that value."""
    yield at or "the body", MARK
    if isinstance(body, dict):
        for key, value in body.items():
            for where, inner in replace_each(value, f"{at}.{key}"):
                yield where, body | {key: inner}
    elif isinstance(body, list):
        for number, value in enumerate(body[:2]):
            for where, inner in replace_each(value, f"{at}[{number}]"):
                yield where, [*body[:number], inner, *body[number + 1 :]]


def with_odd_keys(body: Any) -> Iterator[tuple[str, bytes]]:
    """Yield ``(where, JSON)`` with an odd key added to each object of a body."""
    for where, marked in replace_each(body):
        text = json.dumps(marked)
        for name, key in TEXTS.items():
            yield f"{where}, key {name}", text.replace(f'"{MARK}"', json.dumps({key: "x"})).encode()


def write_json(marked: Any, value: str) -> bytes:
    """Return a body with a JSON text in place of ``MARK``."""
    return json.dumps(marked).replace(f'"{MARK}"', value).encode()


def write_file_part(field: str, name: str, content: bytes = b"x") -> bytes:
    """Return one part of a multipart body: a file with any name, written without escapes."""
    raw = name.encode("utf-8", "surrogatepass")
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="'.encode()
        + raw
        + b'"\r\nContent-Type: text/plain\r\n\r\n'
        + content
        + b"\r\n"
    )


def multiparts(field: str) -> dict[str, bytes]:
    """Return odd multipart bodies, among them files with odd and repeated names in a field."""
    end = f"--{BOUNDARY}--\r\n".encode()
    found = {f"multipart: {name}": body for name, body in MULTIPARTS.items()}
    for name in FILE_NAMES:
        found[f"file {name[:20]!a}"] = write_file_part(field, name) + end
    found["two files of one name"] = write_file_part(field, "a") * 2 + end
    found["file and text of one name"] = write_file_part(field, "a") + f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\nx\r\n'.encode() + end  # fmt: skip
    found["folder and file of one name"] = write_file_part(field, "a/b") + write_file_part(field, "a") + end  # fmt: skip
    return found
