"""AWS Signature Version 4: AWS's published values, AWS's two own signers as peers, and every way to be refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any
from unittest import mock
from urllib.parse import quote, urlsplit

import botocore.auth
import botocore.crt.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cloud_hub.security.core import sigv4
from cloud_hub.security.core.sigv4 import Refused, Request, canonical_request, signing_key, string_to_sign, verify

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
AT = datetime(2015, 8, 30, 12, 36, tzinfo=timezone.utc)
EMPTY = hashlib.sha256(b"").hexdigest()


def secret_of(key: str) -> str | None:
    return SECRET if key == KEY else None


# -- what AWS has published --------------------------------------------------------------------------


def test_the_published_signing_keys() -> None:
    """AWS General Reference: "Deriving the signing key" and "Create a signed AWS API request"."""
    first = "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"
    assert signing_key(SECRET, "20120215", "us-east-1", "iam").hex() == first
    second = "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    assert signing_key(SECRET, "20150830", "us-east-1", "iam").hex() == second


LIST_USERS = Request(
    method="GET", path="/", query="Action=ListUsers&Version=2010-05-08", body=b"",
    headers=[("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), ("Host", "iam.amazonaws.com"),
             ("X-Amz-Date", "20150830T123600Z")],
)  # fmt: skip


def test_the_published_request() -> None:
    canonical = canonical_request(LIST_USERS, ["content-type", "host", "x-amz-date"], EMPTY)
    text = string_to_sign("20150830T123600Z", "20150830/us-east-1/iam/aws4_request", canonical)
    assert text.endswith("\nf536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59")
    signature = sigv4._hmac(signing_key(SECRET, "20150830", "us-east-1", "iam"), text).hex()
    assert signature == "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"


SUITE: dict[str, tuple[Request, str]] = {
    name: (Request(method=method, path=path, query=query, body=b"",
                   headers=[("Host", "example.amazonaws.com"), *headers, ("X-Amz-Date", "20150830T123600Z")]), wanted)
    for name, method, path, query, headers, wanted in [
        ("get-vanilla", "GET", "/", "", [], "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("post-vanilla", "POST", "/", "", [], "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ("get-vanilla-query-order-key-case", "GET", "/", "Param2=value2&Param1=value1", [],
         "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        ("get-header-value-trim", "GET", "/", "", [("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')],
         "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
        ("get-slash-dot-slash", "GET", "/./", "", [],
         "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("get-slashes", "GET", "//example//", "", [],
         "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
    ]
}  # fmt: skip
"""From AWS's Signature Version 4 test suite."""


@pytest.mark.parametrize("name", SUITE)
def test_the_published_suite(name: str) -> None:
    request, wanted = SUITE[name]
    canonical = canonical_request(request, sorted(key.lower() for key, _ in request.headers), EMPTY)
    text = string_to_sign("20150830T123600Z", "20150830/us-east-1/service/aws4_request", canonical)
    assert sigv4._hmac(signing_key(SECRET, "20150830", "us-east-1", "service"), text).hex() == wanted


# -- AWS's own signers as peers ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a client wants to ask; `sign` makes the signed request that the hub would see."""

    method: str
    path: list[str]
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    region: str
    crt: bool

    def sign(self) -> Request:
        query = "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in self.query)
        url = "http://hub.example:8080/" + "/".join(quote(part, safe="~") for part in self.path)
        made = AWSRequest(self.method, f"{url}?{query}" if query else url, self.headers, self.body)
        made.headers["Host"] = "hub.example:8080"
        module = botocore.crt.auth if self.crt else botocore.auth
        signer = (botocore.crt.auth.CrtSigV4Auth if self.crt else botocore.auth.SigV4Auth)(
            Credentials(KEY, SECRET), "iotdata", self.region
        )
        with mock.patch.object(module, "get_current_datetime", return_value=AT):
            signer.add_auth(made)
        seen = urlsplit(made.url)
        headers = [(name, value.encode().decode("latin-1")) for name, value in made.headers.items()]
        return Request(method=self.method, path=seen.path, query=seen.query, headers=headers, body=self.body)


PART = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8).filter(
    lambda text: text not in {".", ".."}
)
VISIBLE = st.characters(min_codepoint=33, max_codepoint=126) | st.sampled_from("à水")  # "à" ends in a byte like a space
CALLS = st.builds(
    Call,
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    path=st.lists(PART | st.sampled_from(["things", "shadow", "a:b", "a b", "~", "ä/ö", "%2F", ""]), max_size=5),
    query=st.lists(st.tuples(PART, PART), max_size=4),
    headers=st.dictionaries(
        st.sampled_from(["Content-Type", "X-Amz-Meta", "Accept", "X-Other"]),
        st.text(VISIBLE, min_size=1, max_size=9).map(lambda text: f"a  {text} "),
        max_size=3,
    ),
    body=st.binary(max_size=40), region=st.sampled_from(["eu-central-1", "us-east-1"]), crt=st.booleans(),
)  # fmt: skip


def check_signed(call: Call) -> None:
    try:
        assert verify(call.sign(), AT.timestamp(), secret_of) == KEY
    except Refused as no:
        raise AssertionError(f"{no.code}: {no}") from no


@settings(max_examples=150)
@given(CALLS)
def test_what_either_signer_signs_is_taken(call: Call) -> None:
    check_signed(call)


def once(raw: str) -> str:
    return raw or "/"


def unsorted(raw: str) -> str:
    return "&".join(f"{n}={v}" for n, v in (pair.partition("=")[::2] for pair in raw.split("&") if pair))


def untrimmed(request: Request, signed: list[str], digest: str) -> str:
    headers = "".join(f"{name}:{','.join(request.values(name))}\n" for name in signed)
    path, query = sigv4._path(request.path), sigv4._query(request.query)
    return "\n".join([request.method, path, query, headers, ";".join(signed), digest])


BUGS: dict[str, tuple[str, Any]] = {
    "the path is encoded once": ("_path", once),
    "the query is not sorted": ("_query", unsorted),
    "headers are not trimmed": ("canonical_request", untrimmed),
    "headers are split within a letter": ("_trimmed", lambda value: " ".join(value.split())),
    "the body is taken for empty": ("_digest", lambda _: EMPTY),
    "the region is fixed": ("signing_key", lambda s, date, _, service: signing_key(s, date, "us-east-1", service)),
}


def caught(check: Callable[[Any], None], examples: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=2000, phases=[Phase.generate])
    @given(examples)
    def run(example: Any) -> None:
        check(example)

    with pytest.raises(AssertionError):
        run()


@pytest.mark.parametrize("bug", BUGS)
def test_the_peers_catch(bug: str) -> None:
    name, wrong = BUGS[bug]
    with mock.patch.object(sigv4, name, wrong):
        caught(check_signed, CALLS)


# -- what is changed on the way ------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Request], Request]] = {
    "method": lambda r: replace(r, method="PATCH"),
    "path": lambda r: replace(r, path=f"{r.path}x"),
    "query": lambda r: replace(r, query=f"{r.query}&zz=1"),
    "body": lambda r: replace(r, body=r.body + b" "),
    "host": lambda r: changed(r, "host", "elsewhere"),
    "time": lambda r: changed(r, "x-amz-date", "20150830T123601Z"),
    "region": lambda r: changed(r, "authorization", authorization(r).replace(r"-1/iotdata", "-2/iotdata")),
    "key": lambda r: changed(r, "authorization", authorization(r).replace(KEY, f"{KEY}2")),
}


def authorization(request: Request) -> str:
    return request.values("authorization")[0]


def changed(request: Request, name: str, value: str) -> Request:
    headers = [(key, value if key.lower() == name else old) for key, old in request.headers]
    return replace(request, headers=headers)


def check_changed(example: tuple[Call, str]) -> None:
    call, change = example
    code = ""
    try:
        verify(CHANGES[change](call.sign()), AT.timestamp(), secret_of)
    except Refused as no:
        code = no.code
    wanted = "UnrecognizedClientException" if change == "key" else "SignatureDoesNotMatch"
    assert code == wanted, f"a changed {change} was not noticed"


CHANGED = st.tuples(CALLS, st.sampled_from(sorted(CHANGES)))


@settings(max_examples=150)
@given(CHANGED)
def test_any_change_on_the_way_is_noticed(example: tuple[Call, str]) -> None:
    check_changed(example)


LAX: dict[str, tuple[str, Any]] = {
    "signatures are not compared": ("hmac.compare_digest", lambda *_: True),
    "paths are not signed": ("_path", lambda _: "/"),
    "queries are not signed": ("_query", lambda _: ""),
    "bodies are not signed": ("_digest", lambda _: EMPTY),
}


@pytest.mark.parametrize("bug", LAX)
def test_the_checker_of_changes_catches(bug: str) -> None:
    name, wrong = LAX[bug]
    with mock.patch(f"cloud_hub.security.core.sigv4.{name}", wrong):
        caught(check_changed, CHANGED)


# -- what is refused -----------------------------------------------------------------------------------

CALL = Call(method="POST", path=["things", "press-3", "shadow"], query=[], headers={"X-Amz-Meta": "m"}, body=b"{}",
            region="eu-central-1", crt=False)  # fmt: skip
SIGNED = CALL.sign()


def without(name: str) -> Request:
    return replace(SIGNED, headers=[(key, value) for key, value in SIGNED.headers if key.lower() != name])


def with_header(name: str, value: str) -> Request:
    return replace(SIGNED, headers=[*SIGNED.headers, (name, value)])


def rewritten(old: str, new: str) -> Request:
    assert old in authorization(SIGNED)
    return changed(SIGNED, "authorization", authorization(SIGNED).replace(old, new))


MISSING, INCOMPLETE, WRONG = (
    "MissingAuthenticationTokenException",
    "IncompleteSignatureException",
    "SignatureDoesNotMatch",
)
REFUSED: dict[str, tuple[Request, str]] = {
    "unsigned": (without("authorization"), MISSING),
    "presigned": (replace(SIGNED, query="X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00"), MISSING),
    "a bearer token": (changed(SIGNED, "authorization", "Bearer tg_x"), INCOMPLETE),
    "another algorithm": (rewritten("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), INCOMPLETE),
    "two authorizations": (with_header("Authorization", authorization(SIGNED)), INCOMPLETE),
    "no signature": (rewritten("Signature=", "Sig="), INCOMPLETE),
    "half a scope": (rewritten("/aws4_request", ""), INCOMPLETE),
    "another service": (rewritten("/iotdata/", "/s3/"), WRONG),
    "another day": (rewritten("/20150830/", "/20150831/"), WRONG),
    "host unsigned": (rewritten("host;", ""), WRONG),
    "date unsigned": (rewritten("x-amz-date;", ""), WRONG),
    "an x-amz header unsigned": (with_header("X-Amz-Target", "x"), WRONG),
    "headers out of order": (rewritten("host;x-amz-date", "x-amz-date;host"), INCOMPLETE),
    "a header twice": (rewritten("host;", "host;host;"), INCOMPLETE),
    "capitals": (rewritten("host;", "Host;"), INCOMPLETE),
    "a signed header is gone": (without("host"), INCOMPLETE),
    "no date": (without("x-amz-date"), INCOMPLETE),
    "a date that is none": (changed(SIGNED, "x-amz-date", "20151330T123600Z"), INCOMPLETE),
    "a date with an offset": (changed(SIGNED, "x-amz-date", "20150830T123600+0100"), INCOMPLETE),
    "two dates": (with_header("x-amz-date", "20150830T123600Z"), INCOMPLETE),
    "an unsigned payload": (with_header("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), WRONG),
    "another signature": (rewritten(authorization(SIGNED)[-64:], "0" * 64), WRONG),
}  # fmt: skip


def test_the_request_that_the_table_changes_is_well() -> None:
    assert verify(SIGNED, AT.timestamp(), secret_of) == KEY


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    request, code = REFUSED[name]
    with pytest.raises(Refused) as no:
        verify(request, AT.timestamp(), secret_of)
    assert no.value.code == code
    assert str(no.value).endswith(".")


@pytest.mark.parametrize("value", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", EMPTY])
def test_a_body_hash_that_is_not_the_bodys(value: str) -> None:
    request = replace(CALL, headers={"X-Amz-Content-SHA256": value}).sign()
    with pytest.raises(Refused) as no:
        verify(request, AT.timestamp(), secret_of)
    assert no.value.code == "XAmzContentSHA256Mismatch"


def test_the_right_body_hash_may_be_sent() -> None:
    digest = hashlib.sha256(CALL.body).hexdigest()
    assert verify(replace(CALL, headers={"X-Amz-Content-SHA256": digest}).sign(), AT.timestamp(), secret_of) == KEY


@pytest.mark.parametrize(("late_s", "taken"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_five_minutes_of_skew_and_no_more(late_s: int, taken: bool) -> None:
    if taken:
        assert verify(SIGNED, AT.timestamp() + late_s, secret_of) == KEY
        return
    with pytest.raises(Refused) as no:
        verify(SIGNED, AT.timestamp() + late_s, secret_of)
    assert no.value.code == "RequestTimeTooSkewed"


@given(st.text(max_size=80), st.text(st.characters(codec="latin-1"), max_size=40))
def test_any_header_at_all_is_refused_and_no_more(text: str, path: str) -> None:
    latin = text.encode("utf-8").decode("latin-1")
    for value in (latin, f"AWS4-HMAC-SHA256 {latin}", authorization(SIGNED) + latin):
        request = replace(changed(SIGNED, "authorization", value), path=path)
        if (value, path) != (authorization(SIGNED), SIGNED.path):
            with pytest.raises(Refused):
                verify(request, AT.timestamp(), secret_of)
