"""Bodies that are not one JSON object in UTF-8 without duplicate names, by name."""

from __future__ import annotations

GOOD = b'{"email":"nobody@example.com","password":"correct horse battery staple"}'

MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"   ",
    "no JSON": b"email=a",
    "a list": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "a number": b"1",
    "deep lists": b"[" * 16000,
    "deep objects": b'{"a":' * 3000,
    "closed deep objects": b'{"a":' * 2000 + b"1" + b"}" * 2000,
    "a name twice": b'{"email":"a@example.com","email":"b@example.com","password":"x"}',
    "a name twice, deep down": b'{"email":"a@example.com","password":"x","more":{"a":1,"a":2}}',
    "a name twice, once escaped": b'{"email":"a@example.com","em\\u0061il":"b@example.com","password":"x"}',
    "bytes that are no text": b'{"email":"\xff\xfe","password":"x"}',
    "text of too many bytes": b'{"email":"\xc0\xaf","password":"x"}',
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "half a surrogate pair": b'{"email":"a\\ud800@example.com","password":"x"}',
    "half a surrogate pair as a name": b'{"\\udc00":1}',
    "a surrogate pair in UTF-8": b'{"email":"\xed\xa0\x80\xed\xb0\x80","password":"x"}',
    "NaN": b'{"email":NaN,"password":Infinity}',
    "a huge number": b'{"email":' + b"9" * 10000 + b"}",
    "something after it": GOOD + b" x",
    "two objects": GOOD + GOOD,
    "a bare line break": b'{"email":"a\nb","password":"x"}',
    "a comma too many": b'{"email":"a@example.com","password":"x",}',
    "a comment": b'{"email":"a@example.com"/**/,"password":"x"}',
    "single quotes": b"{'email':'a@example.com'}",
}
