"""Attack tokens: each is refused with its own stable code, and none makes the verifier ask the network for anything."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from authix import AuthixError, Claims, Verifier
from authix.asgi import AuthixMiddleware
from authix.keys import ALGORITHMS, VerificationKey
from authix.tokens import base64url_decode, base64url_encode

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint, Peer, Serve

Soon = Callable[..., Awaitable[None]]
Attacks = Iterator[tuple[str, str, str]]  # the code that refuses it, what it is, the token

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
WRONG_TYPES: tuple[Any, ...] = (None, True, 1, 1.5, [], {}, ["x"])
# Spoil a good JSON object
SPOILED_JSON: dict[str, Callable[[bytes], bytes]] = {
    "a BOM": lambda good: b"\xef\xbb\xbf" + good,
    "an empty text": lambda _: b" ",
    "an array around it": lambda good: b"[" + good + b"]",
    "a string around it": lambda good: json.dumps(good.decode()).encode(),
    "null for it": lambda _: b"null",
    "a number for it": lambda _: b"1",
    "itself twice": lambda good: good + good,
    "something after it": lambda good: good + b" x",
    "a NUL after it": lambda good: good + b"\0",
    "a NUL before it": lambda good: b"\0" + good,
    "single quotes": lambda good: good.replace(b'"', b"'"),
    "no end": lambda good: good[:-1],
    "a trailing comma": lambda good: good[:-1] + b",}",
}
ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "cp037")
# Members that spoil the object they are added to
SPOILING_MEMBERS = {
    "Latin-1": b'"a":"\xe9"',
    "overlong UTF-8": b'"a":"\xc0\xaf"',
    "surrogates in UTF-8": b'"a":"\xed\xa0\x80"',
    "half a surrogate pair": b'"a":"\\ud800"',
    "the other half": b'"a":["\\uDC00x"]',
    "half a surrogate pair in a name": b'"\\ud83d":1',
    "a control character in a string": b'"a":"\n"',
    "a comment": b'"a":1/**/',
    "an unquoted name": b"a:1",
    "a name that is no string": b"1:1",
    "a leading zero": b'"a":01',
    "a plus sign": b'"a":+1',
    "a bare fraction": b'"a":.5',
    "hexadecimal": b'"a":0x1',
    "NaN": b'"a":NaN',
    "Infinity": b'"a":Infinity',
    "minus Infinity": b'"a":-Infinity',
    "a number too long to be read": b'"a":' + b"9" * 4500,
    "arrays in arrays": b'"a":' + b"[" * 1500 + b"]" * 1500,
    "arrays that never end": b'"a":' + b"[" * 4000,
    "objects in objects": b'"a":' + b'{"":' * 1000 + b"1" + b"}" * 1000,
    "a duplicate name": b'"a":1,"a":1',
    "a duplicate name in disguise": b'"a":1,"\\u0061":2',
    "a duplicate name inside an object": b'"b":{"a":1,"a":2}',
    "a duplicate name inside an array": b'"b":[{"a":1,"a":2}]',
}


def unsigned_and_misnamed_algorithms(m: Mint) -> Attacks:
    for name in ("none", "None", "NONE", "nOnE", " none", "none\0"):
        unsigned = f"{_segment(m.header(alg=name))}.{_segment(m.payload())}"
        yield "token_malformed", f"alg {name!r}, unsigned", unsigned + "."
        yield "algorithm_refused", f"alg {name!r}, a stray signature", unsigned + ".AAAA"
        yield "algorithm_refused", f"alg {name!r}, signed", m.headed(alg=name)
    others = ("", "es256", "ES256 ", "ES256\0", "ES384", "ES512", "ES256K", "PS256", "PS512", "RS384", "RS512")
    for name in (*others, "HS256", "HS384", "HS512", "Ed25519", "Ed448", "eddsa", "RSA-OAEP", "dir"):
        yield "algorithm_refused", f"alg {name!r}", m.headed(alg=name)
    yield "token_malformed", "alg missing", m.headed(without=["alg"])
    for value in (*WRONG_TYPES, ["ES256"], {"ES256": 1}):
        yield "token_malformed", f"alg {value!r}", m.headed(alg=value)
    for alg in ALGORITHMS:
        for kind in set(ALGORITHMS) - {alg}:
            foreign = m.sign(m.header(kind, alg=alg), m.payload(), alg)
            yield "algorithm_refused", f"{alg} with the key id of a key for {kind}", foreign
            yield "signature_invalid", f"{alg} said, {kind} signed", m.sign(m.header(alg), m.payload(), kind)


def public_keys_taken_as_shared_secrets(m: Mint) -> Attacks:
    for kind in ALGORITHMS:
        key = m.public(kind)
        encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        secrets = {
            "PEM": key.pem().encode(),
            "PEM without its last newline": key.pem().strip().encode(),
            "DER": key.public_key.public_bytes(encoding, form),
            "JWK": json.dumps(key.jwk()).encode(),
            "JWK Set": m.key_set(kind).to_json(),
            "key id": key.key_id.encode(),
            "nothing": b"",
        }
        for what, secret in secrets.items():
            for bits in ("256", "384", "512"):
                token = m.hmac(m.header(kind, alg=f"HS{bits}"), secret, f"sha{bits}")
                yield "algorithm_refused", f"HS{bits} with the {kind} key's {what}", token
            token = m.hmac(m.header(kind), secret)
            yield "signature_invalid", f"an HMAC with the {kind} key's {what} under its own alg", token


def keys_that_the_attacker_brings_along(m: Mint) -> Attacks:
    for alg in ALGORITHMS:
        key = VerificationKey(m.strangers[alg].public_key())
        embedded: dict[str, dict[str, object]] = {
            "nothing": {},
            "jwk": {"jwk": key.jwk()},
            "jku": {"jku": m.elsewhere},
            "x5u": {"x5u": m.elsewhere},
            "x5c": {"x5c": [key.pem()]},
            "x5t": {"x5t": "AAAA", "x5t#S256": "AAAA"},
            "everything": {"jwk": key.jwk(), "jku": m.elsewhere, "x5u": m.elsewhere, "x5c": [key.pem()]},
        }
        for what, members in embedded.items():
            for code, key_id in (("signature_invalid", {}), ("key_unknown", {"kid": key.key_id})):
                header = m.header(alg, **members, **key_id)
                yield code, f"{alg}, {what} and {key_id}", m.sign(header, m.payload(), alg, m.strangers[alg])


def members_of_the_header(m: Mint) -> Attacks:
    extensions: tuple[Any, ...] = ([], ["exp"], ["b64"], ["crit"], "exp", None, {}, 0, False)
    for crit in extensions:
        yield "header_refused", f"crit {crit!r}", m.headed(crit=crit)
    for b64 in (True, False, None, 0, "false"):
        yield "header_refused", f"b64 {b64!r}", m.headed(b64=b64)
    yield "header_refused", "b64 and crit", m.headed(b64=False, crit=["b64"])

    yield "token_type_wrong", "typ missing", m.headed(without=["typ"])
    texts = ("", "JWT", "jwt", "at", "at+JWT", "AT+JWT", "At+Jwt", "at+jwt ", " at+jwt", "at+jwt\0", "at jwt")
    more = ("application/AT+JWT", "application/jwt", "id+jwt", "logout+jwt", "dpop+jwt", "application/at+jwt;a=b")
    for typ in (*texts, *more, *WRONG_TYPES, ["at+jwt"]):
        yield "token_type_wrong", f"typ {typ!r}", m.headed(typ=typ)

    yield "token_malformed", "kid missing", m.headed(without=["kid"])
    for wrong in ("", "k" * 257, *WRONG_TYPES):
        yield "token_malformed", f"kid {wrong!r}", m.headed(kid=wrong)
    own = m.public().key_id
    paths = ("../../../../etc/passwd", "/dev/null", "file:///etc/passwd", m.elsewhere, "\\\\attacker.example\\share")
    stray = ("' OR '1'='1", "$(id)", "%00", "\0", "k" * 256, "\u043a\u043b\u044e\u0447", "__proto__", "0")
    for kid in (*paths, *stray, own.swapcase(), own + " ", own + "\0", own[:-1]):
        yield "key_unknown", f"kid {kid!r}", m.headed(kid=kid)


def other_spellings_of_a_good_token(m: Mint) -> Attacks:
    good = m()
    header, payload, signature = good.split(".")
    texts = ("", ".", "..", "...", "a", "a.b", "null", "Bearer x", "{}", "x" * 8192, "\ud800", "\xe9.\xe9.\xe9")
    whole = {
        "its header only": header,
        "no signature": f"{header}.{payload}",
        "an empty signature": f"{header}.{payload}.",
        "an empty header": f".{payload}.{signature}",
        "an empty payload": f"{header}..{signature}",
        "a fourth segment": f"{good}.AAAA",
        "a trailing dot": f"{good}.",
        "a leading dot": f".{good}",
        "five segments, as a JWE": f"{good}.AAAA.AAAA",
        "the JSON serialization": json.dumps({"protected": header, "payload": payload, "signature": signature}),
        "percent-encoded dots": good.replace(".", "%2E"),
        "other dots": good.replace(".", "\u3002"),
        "quotes": f'"{good}"',
        "a scheme before it": f"Bearer {good}",
        "itself twice": f"{good},{good}",
    }
    for what, token in (whole | {f"the text {text!r}": text for text in (*texts, "\u0661.\u0661.\u0661")}).items():
        yield "token_malformed", what, token
    strays = (" ", "\n", "\r\n", "\t", "\0", "\v", "\u00a0", "\u200b", "\ufeff", "=", "==", "+", "/", "\xe9", "\ud800")
    for stray in strays:
        yield "token_malformed", f"{stray!r} before it", stray + good
        yield "token_malformed", f"{stray!r} after it", good + stray
        yield "token_malformed", f"{stray!r} after its header", f"{header}{stray}.{payload}.{signature}"
        yield "token_malformed", f"{stray!r} after its payload", f"{header}.{payload}{stray}.{signature}"
        yield "token_malformed", f"{stray!r} inside its signature", f"{good[:-40]}{stray}{good[-40:]}"
    loose = _with_spare_bits(m)
    dashed = _with_dashes(m)
    for n, name in enumerate(("header", "payload", "signature")):
        yield "token_malformed", f"stray bits at the end of its {name}", _respell(loose, n, _stray_bits)
        yield "token_malformed", f"a character too many in its {name}", _respell(loose, n, lambda text: text + "AAA")
        plain = _respell(dashed, n, lambda text: text.replace("-", "+").replace("_", "/"))
        yield "token_malformed", f"the alphabet of plain base64 in its {name}", plain
    for size in (8193, 65_536, 1_000_000):
        yield "token_too_large", f"{size} bytes", _of_size(m, size)
    yield "token_too_large", "9,000 bytes of nothing", "A" * 9000


def texts_that_are_not_strict_json(m: Mint) -> Attacks:
    header, payload = _json_of(m.header()), _json_of(m.payload())
    for what, spoil in SPOILED_JSON.items():
        yield "token_malformed", f"a payload with {what}", m.sign(header, spoil(payload))
        yield "token_malformed", f"a header with {what}", m.sign(spoil(header), payload)
    for encoding in ENCODINGS:
        yield "token_malformed", f"a payload in {encoding}", m.sign(header, payload.decode().encode(encoding))
        yield "token_malformed", f"a header in {encoding}", m.sign(header.decode().encode(encoding), payload)
    for what, member in SPOILING_MEMBERS.items():
        yield "token_malformed", f"a payload with {what}", m.sign(header, payload[:-1] + b"," + member + b"}")
        yield "token_malformed", f"a header with {what}", m.sign(header[:-1] + b"," + member + b"}", payload)
    for name in ("alg", "kid", "typ"):
        doubled = header[:-1] + f',"{name}":"{m.header()[name]}"}}'.encode()
        yield "token_malformed", f"{name} twice in the header", m.sign(doubled, payload)
    for name in ("iss", "sub", "exp", "iat_us", "roles"):
        doubled = payload[:-1] + f',"{name}":{json.dumps(m.payload()[name])}}}'.encode()
        yield "token_malformed", f"{name} twice in the payload", m.sign(header, doubled)
    yield "claim_missing", "an empty payload object", m.sign(header, {})
    yield "token_malformed", "an empty header object", m.sign({}, payload)


def times(m: Mint) -> Attacks:
    texts = ("", "0", "1700000300", "2023-11-14T22:13:20Z", "Infinity")
    for claim in ("exp", "iat", "nbf"):
        numbers = (-1, -0.5, 1e11, 10**20, 10**400, -(10**400), m.now * 1000)
        for value in (*texts, *numbers, *WRONG_TYPES[:2], False, [], {}, [m.now]):
            yield "claim_invalid", f"{claim} {value!r}", m(**{claim: value})
        for spelling in ("1e400", "-1e400", "1e999999"):
            yield "claim_invalid", f"{claim} {spelling}", _with_raw(m, claim, spelling)
    for value in (*texts, None, True, False, [], {}, -1, 1.7e15, 1700000000000000.5, -1e15):
        yield "claim_invalid", f"iat_us {value!r}", m(iat_us=value)
    for spelling in ("1.7e15", "1e400", "1700000000000000.0"):
        yield "claim_invalid", f"iat_us {spelling}", _with_raw(m, "iat_us", spelling)
    for ahead in (6, 3600, 10**9):
        yield "token_not_yet_valid", f"iat {ahead} s ahead", m(iat=m.now + ahead, iat_us=0)
        yield "token_not_yet_valid", f"nbf {ahead} s ahead", m(nbf=m.now + ahead)
        yield "token_not_yet_valid", f"iat_us {ahead} s ahead", m(iat_us=(m.now + ahead) * 1_000_000)
    yield "claim_invalid", "iat_us in nanoseconds", m(iat_us=m.now * 10**9)
    yield "claim_invalid", "iat_us without end", m(iat_us=10**400)
    yield "token_not_yet_valid", "iat_us before the year 5138", m(iat_us=10**17 - 1)
    for behind in (5, 6, 3600, m.now):
        yield "token_expired", f"exp {behind} s ago", m(exp=m.now - behind)


def names(m: Mint) -> Attacks:
    for claim in ("iss", "aud", "exp", "iat", "sub"):
        yield "claim_missing", f"no {claim}", m(without=[claim])
        shouted = {claim.upper(): m.payload()[claim]}
        yield "claim_missing", f"{claim} in other case", m(without=[claim], **shouted)

    own = m.issuer
    for iss in ("", own[:-1], own + "/", own + ".attacker.example", own.upper(), own.replace("https", "http")):
        yield "issuer_wrong", f"iss {iss!r}", m(iss=iss)
    for iss in (own + "\0", own + " ", own + "#", own + ":443", "https://AUTH.example.com"):
        yield "issuer_wrong", f"iss {iss!r}", m(iss=iss)
    for value in (*WRONG_TYPES, [own], {own: 1}):
        yield "issuer_wrong", f"iss {value!r}", m(iss=value)

    for aud in ("", "order", "orders ", "Orders", "orders/", "orders,others", "others", [], ["others"], ["order", ""]):
        yield "audience_wrong", f"aud {aud!r}", m(aud=aud)
    for value in (None, True, 1, {}, {"orders": 1}, [1], ["orders", None], [["orders"]], ["orders", ["x"]]):
        yield "claim_invalid", f"aud {value!r}", m(aud=value)

    texts = (
        "",
        "n" * 129,
        "a b",
        " a",
        "a ",
        "\0",
        "a\n",
        "a\r\nX-Authix-Roles: admin",
        "\x7f",
        "\xe9",
        "\u202e",
        "\uff11",
    )
    for claim in ("sub", "sid", "jti"):
        for name in (*texts, "a\u200b", "\U0001f600", *WRONG_TYPES):
            yield "claim_invalid", f"{claim} {name!r}", m(**{claim: name})
    for roles in (None, "admin", 1, {"admin": 1}, [1], [None], ["admin", ["x"]], [["admin"]]):
        yield "claim_invalid", f"roles {roles!r}", m(roles=roles)


def signatures_that_no_key_made(m: Mint) -> Attacks:
    for alg in ALGORITHMS:
        good = m(alg)
        header, payload, tail = good.split(".")
        signature = base64url_decode(tail)
        signatures = {
            "cut short": signature[:-1],
            "with one byte more": signature + b"\0",
            "with a zero before it": b"\0" + signature,
            "of another token": _signature(m(alg, sub="another")),
        }
        for length in (1, 31, 63, 64, 65, 96, 128, 255, 256, 257, 512):
            signatures |= {f"{length} bytes {octet!r}": octet * length for octet in (b"\0", b"\xff")}
        signatures |= {f"with bit {bit} flipped": _flip(signature, bit) for bit in (0, 7, 100, 500)}
        for what, other in signatures.items():
            yield "signature_invalid", f"{alg}, {what}", _resign(good, other)
        promoted, respelt = m(alg, sub="admin").split(".")[1], base64url_encode(base64url_decode(payload) + b" ")
        yield "signature_invalid", f"{alg}, another user's payload", f"{header}.{promoted}.{tail}"
        yield "signature_invalid", f"{alg}, the payload respelt", f"{header}.{respelt}.{tail}"
        yield "signature_invalid", f"{alg}, another header", f"{_segment(m.header(alg, x=1))}.{payload}.{tail}"

    good = m()
    raw = _signature(good)
    n = P256_ORDER
    for r, s in ((0, 0), (0, 1), (1, 0), (1, 1), (n, n), (n, 1), (1, n), (n - 1, n - 1), (2**256 - 1, 1)):
        token = _resign(good, r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        yield "signature_invalid", f"ES256, r={r} s={s}", token
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    yield "signature_invalid", "ES256 as DER", _resign(good, der)
    yield "signature_invalid", "ES256, r and s swapped", _resign(good, raw[32:] + raw[:32])
    yield "signature_invalid", "ES256 over SHA-512", _resign(good, _es256_over_sha512(m, good))

    good = m("EdDSA")
    raw = _signature(good)
    for point in (bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"):
        yield "signature_invalid", f"EdDSA, the small-order point {point[0]}", _resign(good, point + bytes(32))
    beyond = int.from_bytes(raw[32:], "little") + ED25519_ORDER
    yield "signature_invalid", "EdDSA, S beyond the order", _resign(good, raw[:32] + beyond.to_bytes(32, "little"))

    good = m("RS256")
    key, data = m.keys["RS256"], good.rpartition(".")[0].encode()
    assert isinstance(key, rsa.RSAPrivateKey)
    pss = key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    yield "signature_invalid", "RS256 by PSS", _resign(good, pss)
    for digest in (hashes.SHA1(), hashes.SHA384(), hashes.SHA512()):
        yield (
            "signature_invalid",
            f"RS256 over {digest.name}",
            _resign(good, key.sign(data, padding.PKCS1v15(), digest)),
        )


FAMILIES = (
    unsigned_and_misnamed_algorithms,
    public_keys_taken_as_shared_secrets,
    keys_that_the_attacker_brings_along,
    members_of_the_header,
    other_spellings_of_a_good_token,
    texts_that_are_not_strict_json,
    times,
    names,
    signatures_that_no_key_made,
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_attack_tokens_are_each_refused_with_their_code(
    mint: Mint, verifier: Verifier, family: Callable[[Mint], Attacks]
) -> None:
    def judge(token: str) -> str:
        try:
            verifier.verify(token, now=mint.now, monotonic=0)
        except AuthixError as error:
            return error.code
        except Exception as error:  # noqa: BLE001 - a crash is a finding like any other, to be listed with the rest
            return repr(error)
        return "accepted"

    wrong = [(what, code, got) for code, what, token in family(mint) if (got := judge(token)) != code]
    assert wrong == []


async def test_attack_tokens_never_trouble_a_service_nor_anyone_else(
    live_mint: Mint, new_authority: Callable[[Mint], Authority], peer: Peer, serve: Serve, soon: Soon
) -> None:
    """A 401 with its code for each, and of all requests they could cause only one fetch of the key set."""
    live_mint.elsewhere = f"{peer.url}/keys"
    authority = new_authority(live_mint)
    await authority.start()
    auth = authority.auth(leeway=0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(f"an attack came through: {scope}")

    url = await serve(AuthixMiddleware(app, auth=auth), lifespan="off")
    wrong, tried = [], 0
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
        await client.get("/")
        await soon(auth.ready, "the service is ready")
        for family in FAMILIES:
            for code, what, token in family(live_mint):
                if len(token) < 20_000 and re.fullmatch(r"[!-~]([ -~]*[!-~])?", token):  # what a header can carry
                    answer = await client.get("/", headers={"Authorization": f"Bearer {token}"})
                    tried += 1
                    if (answer.status_code, answer.json()["code"]) != (401, code):
                        wrong.append((what, code, answer.status_code, answer.text))
    await auth.stop()
    await authority.stop()
    assert wrong == []
    assert tried > 600
    assert peer.received == []
    assert len(authority.of("/keys")) == 2
    assert {request.path for request in authority.received} == {"/keys", "/feed"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c", "x5t", "cty", "x"])
def test_what_a_header_says_beyond_its_key_id_plays_no_part(
    mint: Mint, verifier: Verifier, algorithm: str, member: str
) -> None:
    token = mint.sign(mint.header(algorithm, **{member: mint.elsewhere}), mint.payload(), algorithm)
    assert verifier.verify(token, now=mint.now, monotonic=0).subject == "user-1"


def test_a_token_may_be_8192_bytes_long(mint: Mint, verifier: Verifier) -> None:
    token = _of_size(mint, 8192)
    assert len(token) == 8192
    assert isinstance(verifier.verify(token, now=mint.now, monotonic=0), Claims)


def _json_of(content: dict[str, object]) -> bytes:
    return json.dumps(content).encode()


def _segment(content: dict[str, object]) -> str:
    return base64url_encode(_json_of(content))


def _with_raw(m: Mint, claim: str, spelling: str) -> str:
    """A token with this very spelling of a number."""
    stand_in = "12345678987654321"
    return m.sign(
        m.header(), _json_of(m.payload(**{claim: int(stand_in)})).replace(stand_in.encode(), spelling.encode())
    )


def _respell(token: str, segment: int, spell: Callable[[str], str]) -> str:
    segments = token.split(".")
    segments[segment] = spell(segments[segment])
    return ".".join(segments)


def _resign(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{base64url_encode(signature)}"


def _with_spare_bits(m: Mint) -> str:
    """A good token each of whose segments ends in a character with bits to spare."""

    def fill(data: bytes) -> bytes:
        return data + b" " * ((1 - len(data)) % 3)

    return m.sign(fill(_json_of(m.header())), fill(_json_of(m.payload())))


def _stray_bits(segment: str) -> str:
    return segment[:-1] + BASE64URL[BASE64URL.index(segment[-1]) + 1]


def _with_dashes(m: Mint) -> str:
    """A good token that has - or _ in each segment."""
    header, payload = m.header(x="~~~???>>>"), m.payload(x="~~~???>>>")
    while True:
        token = m.sign(header, payload)
        if all(set(segment) & {"-", "_"} for segment in token.split(".")):
            return token


def _of_size(m: Mint, size: int) -> str:
    """A well-signed token of ``size`` bytes."""
    for header in (m.header(x="x" * n) for n in range(4)):  # base64 has not every length
        fill = (size - len(m.sign(header, m.payload(x="")))) * 3 // 4 - 3
        while len(token := m.sign(header, m.payload(x="x" * fill))) < size:
            fill += 1
        if len(token) == size:
            return token
    raise AssertionError(f"no token has {size} bytes")


def _signature(token: str) -> bytes:
    return base64url_decode(token.rpartition(".")[2])


def _flip(signature: bytes, bit: int) -> bytes:
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def _es256_over_sha512(m: Mint, token: str) -> bytes:
    key = m.keys["ES256"]
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(key.sign(token.rpartition(".")[0].encode(), ec.ECDSA(hashes.SHA512())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
