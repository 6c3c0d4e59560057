"""Renders docs/errors.md from the three trees of errors: ``make docs``. A test holds the page against them.

Rule: every code has its line, and every line says what to do; a code without advice ends the rendering.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from authix.errors import AuthixError
from authix_issuer.answers import CODES, STATUS
from authix_issuer.errors import IssuerError
from authix_sidecar import errors as sidecar_errors
from authix_sidecar.errors import SidecarError

PAGE = Path(__file__).parent / "errors.md"
Kind = type[AuthixError] | type[SidecarError] | type[IssuerError]
K = TypeVar("K", AuthixError, SidecarError, IssuerError)

HEAD = """# Errors

<!-- Written by docs/render_errors.py (`make docs`). -->

Every refusal over HTTP is a problem document (RFC 9457):

```json
{"title":"Unauthorized","status":401,"code":"token_expired","detail":"claim 'exp' has passed"}
```

Programs go by `code`, which stays the same from release to release. `detail` is a sentence for people and may change; it
never holds a token, a password or a key. A 401 over an access token also has a `WWW-Authenticate` challenge (RFC 6750), a
503 and a 429 have `Retry-After` in seconds.

What a client has to know is little:

| it gets | it does |
|---|---|
| 401 with `token_expired`, `token_revoked`, `token_too_old`, `key_revoked` | refresh once and repeat; if the refresh is refused, log in again |
| any other 401 | log in again |
| 403 | not repeat it as it is; a password may be typed again |
| 429, 503 | wait as long as `Retry-After` says, then repeat |
| other 4xx | not repeat it: the request is wrong |

The same codes are the label `code` in [the metrics](metrics.md) and in the logs.
"""

SDK_HEAD = """
## Of a verifier: the SDK and the sidecar

In Python these are `authix.errors`: catch `TokenError` for every 401, `Unavailable` for every 503.

| code | status | what it means | what to do |
|---|---|---|---|"""
SIDECAR_HEAD = """
## Of the sidecar besides

| code | status | what it means | what to do |
|---|---|---|---|"""
ISSUER_HEAD = """
## Of the issuer

Its calls that take an access token also answer with the codes of a verifier.

| code | status | what it means | what to do |
|---|---|---|---|"""
REASONS = """


## The reasons of `input_invalid`

`reasons` has one entry for each thing that is wrong: `field`, `code` and `detail`. A field that is missing is
`<field>_missing`, one of a wrong form `<field>_malformed`, one that the call does not have `field_unknown`. Besides:

| code | what is wrong |
|---|---|
| `email_invalid` | it is no email address that mail could reach |
| `password_too_short`, `password_too_long` | see [passwords](passwords.md) |
| `password_common`, `password_derived` | it is one that attackers try first, or made of the email or the service's name |
| `roles_too_many`, `role_malformed`, `role_repeated` | see [roles and claims](administration.md#roles-and-claims) |
| `claim_reserved`, `claims_too_deep`, `claim_number`, `claims_too_large` | the same |
| `scope_unknown` | `scope` is none of `user`, `session` and `all` |
| `query_malformed` | the query has a name that the call does not have, or one twice |
| `email_not_alone`, `nothing_to_change` | what goes together in calls of the [administration](administration.md) |
"""

LOG_IN = "log in again"
REFRESH = "refresh, and repeat the request"
WRONG_ISSUER = "look whose token it is: `python -m authix explain -` names every reason"
FORGED = "nothing: it is forged or damaged. Many of them are an attack"
CLIENT = "mend the client"
CLIENT_OR_ATTACK = "mend the client, or the proxy before the sidecar; from strangers it is an attack that failed"
WAIT = "wait as long as `Retry-After` says, and repeat"
ADVICE: dict[str, str] = {
    # the SDK's tree
    "settings_invalid": "read the sentences: each names a setting and what it must be",
    "token_invalid": LOG_IN,
    "token_missing": "send `Authorization: Bearer` with an access token, once",
    "token_malformed": "send the access token as it was given, once; a refresh token is none",
    "token_too_large": "give the user fewer roles and smaller claims",
    "algorithm_refused": "set the verifier's `AUTHIX_ALGORITHM` to what the issuer signs with; else it is an attack",
    "header_refused": FORGED,
    "token_type_wrong": "send the access token, no ID token; for other issuers set `AUTHIX_TOKEN_TYPES`",
    "key_unknown": "look whether the verifier reaches the issuer's key set; a token of another issuer is refused so too",
    "key_revoked": REFRESH,
    "signature_invalid": FORGED,
    "claim_invalid": WRONG_ISSUER,
    "claim_missing": WRONG_ISSUER,
    "issuer_wrong": "make `AUTHIX_ISSUER` the same for issuer and verifier, to the slash",
    "audience_wrong": "make the verifier's `AUTHIX_AUDIENCE` that of the issuer",
    "token_expired": REFRESH,
    "token_not_yet_valid": "set the clocks of issuer and verifier (NTP)",
    "token_revoked": f"{REFRESH}; if that is refused, the session has ended: {LOG_IN}",
    "role_missing": "give the user the role, or ask for less",
    "unavailable": WAIT,
    "not_ready": f"{WAIT}; if it lasts, the verifier's `/readyz` and log say what is missing",
    "feed_stale": f"{WAIT}; operator: see [at scale](scale.md#verifiers), and `AUTHIX_WHEN_STALE`",
    "source_error": "read the log: it names the source and what is wrong with it",
    # the sidecar's
    "request_malformed": CLIENT_OR_ATTACK,
    "head_too_large": "send fewer and smaller header fields; cookies are the usual cause",
    "version_refused": "speak HTTP/1.1 to the sidecar",
    "method_refused": CLIENT_OR_ATTACK,
    "target_refused": CLIENT_OR_ATTACK,
    "path_not_canonical": "ask for the path in its plain spelling; see [the policy](policy.md#how-a-route-is-found)",
    "host_refused": CLIENT_OR_ATTACK,
    "framing_refused": CLIENT_OR_ATTACK,
    "body_malformed": "send well-formed chunks",
    "expectation_refused": "send no `Expect` but `100-continue`",
    "request_too_slow": "send it faster; see [slow clients](sidecar.md#slow-clients)",
    "feed_forbidden": "give the follower the sidecar's `AUTHIX_FEED_TOKEN`",
    "feed_incomplete": "wait: the follower tries again by itself; the sidecar's `/readyz` says what it lacks",
    "upstream_error": "look at the upstream",
    "upstream_unreachable": "start the upstream, or mend `AUTHIX_UPSTREAM`",
    "upstream_broken": "look at the upstream's log: it ended in the middle, or speaks no HTTP",
    "upstream_timeout": "look at the upstream, or raise `AUTHIX_UPSTREAM_TIMEOUT`",
    "token_too_old": REFRESH,
    "claim_refused": "give the user the claim, or change the route",
    "original_refused": "mend the proxy's configuration; see [forward auth](policy.md#forward-auth)",
    "peer_refused": "list the proxy in `AUTHIX_TRUSTED_PEERS`",
    "cross_site_refused": "list the page's origin in `AUTHIX_COOKIE_ORIGINS`, if it is yours",
    "too_many_failures": f"{WAIT}; see [many wrong signatures](sidecar.md#many-wrong-signatures)",
    # the issuer's
    "input_invalid": "show the user the [reasons](#the-reasons-of-input_invalid)",
    "form_malformed": "send one `token` as a form; see [OAuth](oauth.md#bodies)",
    "content_type_wrong": "send `Content-Type: application/json`",
    "email_taken": "log in instead, or take another email",
    "credentials_wrong": "type them again",
    "password_wrong": "type it again",
    "account_unknown": "nothing: it is gone",
    "account_disabled": "ask an administrator",
    "account_busy": "repeat it",
    "self_lockout": "let another administrator do it, or use the command line",
    "session_unknown": "nothing: it is gone",
    "refresh_token_missing": f"{LOG_IN}; if there was a cookie, look at `AUTHIX_COOKIE_PROFILE` and the page's site",
    "refresh_token_invalid": LOG_IN,
    "refresh_token_reused": f"{LOG_IN}; the [audit log](audit.md) has `session.reused` with the address it came from",
    "feed_token_wrong": "give the verifier the issuer's `AUTHIX_FEED_TOKEN`",
    "introspection_token_wrong": "give the service the issuer's `AUTHIX_INTROSPECTION_TOKEN`",
    "introspection_off": "set `AUTHIX_INTROSPECTION_TOKEN` at the issuer, if it is wanted",
    "origin_forbidden": "list the page's origin in `AUTHIX_ORIGINS`, if it is yours; see [browsers](browsers.md)",
    "too_many_requests": f"{WAIT}; see [limits](limits.md)",
    "too_many_attempts": f"{WAIT}; see [limits](limits.md#wrong-passwords)",
    "overloaded": f"{WAIT}; operator: more issuers, or [cheaper hashing](passwords.md)",
    "store_unavailable": f"{WAIT}; operator: `authix-issuer doctor` says which engine, and why",
    "topic_unavailable": "nothing: it is published when Kafka is back; `authix-issuer doctor` says what is wrong",
    "key_not_ready": "wait until the moment that it names, or `keys rotate --now`",
    "keys_too_many": "wait until retired keys are gone; set a longer `AUTHIX_KEY_LIFE`",
    # what has no class
    "not_found": "ask for a path that there is: [HTTP interface](http.md)",
    "method_not_allowed": "use a method that `Allow` names",
    "request_timeout": "send the request faster",
    "body_too_large": "send at most 16 KiB",
    "headers_too_large": "send at most 8 KiB of header fields",
    "request_refused": "read `detail`",
    "internal_error": "report it: this is a bug. The log has the traceback",
}
OF_THE_ISSUER = {
    "body_malformed": "send one JSON object, in UTF-8, no name of it twice",
    "key_unknown": "look at `authix-issuer keys list`",
    "not_ready": "operator: `authix-issuer doctor` says which engine, and why",
    "request_malformed": CLIENT,
}
"""What to do about codes that the other trees have too."""
NOT_ANSWERED = {
    "settings_invalid": "exit code 2",
    "source_error": "in the log",
    "topic_unavailable": "in the log",
}
"""What no client is answered with."""
WITHOUT_CLASS = {
    "not_found": (404, "There is no such path."),
    "method_not_allowed": (405, "The path does not have this method."),
    "request_timeout": (408, "The request did not arrive in time."),
    "body_too_large": (413, "The body is over 16 KiB."),
    "headers_too_large": (431, "The header fields are over 8 KiB."),
    "request_malformed": (400, "It is no HTTP request that can be read."),
    "request_refused": (None, "The server below refuses the request for another reason."),
    "not_ready": (503, "`/readyz`: a store does not answer; `engines` says which, and how it does."),
    "internal_error": (500, "The issuer failed."),
}
"""What the issuer answers beside its tree; see ``answers.CODES``."""


def tree(root: type[K], *, module: str = "") -> Iterator[type[K]]:
    """The errors below ``root`` in the order of their declaration, of one module if it is named."""
    for kind in root.__subclasses__():
        if not module or kind.__module__ == module:
            yield kind
        yield from tree(kind, module=module)


def render() -> str:
    return "\n".join(_lines()) + REASONS


def _lines() -> Iterator[str]:
    yield HEAD + SDK_HEAD
    yield from map(_line, tree(AuthixError, module="authix.errors"))
    yield SIDECAR_HEAD
    yield from map(_line, tree(SidecarError))
    yield from map(_line, tree(AuthixError, module=sidecar_errors.__name__))
    yield ISSUER_HEAD
    for kind in tree(IssuerError):
        yield _line(kind, OF_THE_ISSUER)
    if missing := set(CODES.values()) - WITHOUT_CLASS.keys():
        raise LookupError(f"say in WITHOUT_CLASS what these mean: {missing}")
    kinds: list[Kind] = [*tree(AuthixError), *tree(SidecarError), *tree(IssuerError)]
    if gone := ADVICE.keys() - {code_of(kind) for kind in kinds} - WITHOUT_CLASS.keys():
        raise LookupError(f"nobody answers these any more: {gone}")
    for code, (status, meaning) in WITHOUT_CLASS.items():
        yield _row(code, str(status or "4xx"), meaning, OF_THE_ISSUER)


def code_of(kind: Kind) -> str:
    return kind.code


def _line(kind: Kind, first: Mapping[str, str] = ADVICE) -> str:
    code = code_of(kind)
    if issubclass(kind, IssuerError):
        status = NOT_ANSWERED.get(code) or str(STATUS[kind])
    else:
        status = NOT_ANSWERED.get(code) or str(kind.status)
    meaning = " ".join((kind.__doc__ or "").replace("``", "`").split())
    return _row(code, status, meaning, first)


def _row(code: str, status: str, meaning: str, first: Mapping[str, str]) -> str:
    return f"| `{code}` | {status} | {meaning} | {first.get(code) or ADVICE[code]} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
