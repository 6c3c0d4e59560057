"""Bodies that are no form which gives a token once, by name: how each is declared, and its bytes."""

from __future__ import annotations

FORM = "application/x-www-form-urlencoded"

REFUSED_FORMS: dict[str, tuple[str | None, bytes]] = {
    "nothing": (FORM, b""),
    "no token": (FORM, b"token_type_hint=access_token"),
    "an empty token": (FORM, b"token="),
    "a bare name": (FORM, b"token"),
    "another spelling of the name": (FORM, b"Token=x"),
    "two tokens": (FORM, b"token=x&token=y"),
    "the same token twice": (FORM, b"token=x&token=x"),
    "a token and an empty one": (FORM, b"token=x&token="),
    "two tokens, one name escaped": (FORM, b"token=x&t%6Fken=y"),
    "two hints": (FORM, b"token=x&token_type_hint=a&token_type_hint=b"),
    "another parameter twice": (FORM, b"token=x&a=1&a=1"),
    "bytes that are no text": (FORM, b"token=\xff\xfe"),
    "escapes that are no text": (FORM, b"token=%ff%fe"),
    "escapes of half a surrogate pair": (FORM, b"token=%ed%a0%80"),
    "escapes of a name that are no text": (FORM, b"token=x&%ff=y"),
    "UTF-16": (FORM, "token=x".encode("utf-16")),
    "JSON declared as a form": (FORM, b'{"token":"x"}'),
    "many parameters": (FORM, b"&".join(b"a%d=" % number for number in range(2000))),
    "JSON": ("application/json", b'{"token":"x"}'),
    "a form of parts": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="token"\r\n\r\nx',
    ),
    "not declared": (None, b"token=x"),
    "declared as text": ("text/plain", b"token=x"),
    "almost declared": (f"{FORM}x", b"token=x"),
}
