"""Which token of a request is used, which are malformed, and how fresh an answer is asked for."""

import pytest

from api.lookup_request import LookupRequest, parse_request

LONGEST = "x" * 8192


def read(query: bytes = b"", **headers: str) -> LookupRequest:
    """`read(b"job_token=a", Job_Token="b")`: header names with `-` are written with `_`."""
    pairs = [(n.replace("_", "-").encode(), v.encode("latin-1")) for n, v in headers.items()]
    return parse_request(pairs, query)


@pytest.mark.parametrize(
    ("bearer", "query", "header", "used"),
    [
        ("Bearer a", b"job_token=b", "c", b"a"),
        ("Bearer a", b"", "c", b"a"),
        (None, b"job_token=b", "c", b"b"),
        (None, b"", "c", b"c"),
        (None, b"", None, None),
        ("Bearer ", b"job_token=b", "c", b"b"),
        ("Bearer", b"job_token=b", "c", b"b"),
        ("", b"job_token=b", "c", b"b"),
        ("Basic a", b"job_token=b", "c", b"b"),
        ("a", b"job_token=b", "c", b"b"),
        ("Bearer ", b"job_token=", "c", b"c"),
        ("Bearer ", b"job_token", "c", b"c"),
        ("Bearer ", b"other=b", "c", b"c"),
        ("Bearer ", b"job_token=", "", None),
        ("Bearer ", b"job_token=", "  ", None),
    ],
)
def test_the_bearer_token_comes_before_the_parameter_before_the_header_and_empty_ones_do_not_count(
    bearer: str | None, query: bytes, header: str | None, used: bytes | None
) -> None:
    headers = {"Authorization": bearer, "Job_Token": header}
    assert read(query, **{n: v for n, v in headers.items() if v is not None}).token == used


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "bearer a"},
        {"AUTHORIZATION": "BEARER a"},
        {"Authorization": "  Bearer   a  "},
        {"job_token": "a"},
        {"JOB_TOKEN": " a "},
    ],
    ids=str,
)
def test_scheme_and_header_names_are_read_in_any_case_and_spacing(headers: dict[str, str]) -> None:
    assert read(b"", **headers).token == b"a"


def test_a_malformed_token_is_not_replaced_by_a_good_one_of_lower_rank() -> None:
    assert read(b"job_token=good", Authorization="Bearer not good").token is None


@pytest.mark.parametrize(
    ("query", "used"),
    [
        (b"job_token=glcbt-64_%61%62%2E", b"glcbt-64_ab."),
        (b"job%5Ftoken=a", b"a"),
        (b"job_token=%2B%26%3D%25", b"+&=%"),
        (b"job_token=a%zz%4", b"a%zz%4"),
        (b"a=1&job_token=b&c=3", b"b"),
        (b"job_token=a&job_token=b", b"b"),
        (b"job_token=a&job_token=", b"a"),
        (b"&&job_token=a&&", b"a"),
        (b"JOB_TOKEN=a", None),
        (b"job_token[]=a", None),
        (b"x=job_token=a", None),
        (b"job_token=a+b", None),
        (b"job_token=a%20b", None),
        (b"job_token=%00", None),
        (b"job_token=a%0a", None),
        (b"job_token=%c3%a9", None),
        (b"job_token=\xc3\xa9", None),
        (b"job_token=%ff", None),
    ],
)
def test_the_parameter_is_percent_decoded_and_its_last_value_counts(
    query: bytes, used: bytes | None
) -> None:
    assert read(query).token == used


@pytest.mark.parametrize("token", ["a", "!", "~", "glcbt-64_abc", "a.b.c", "5" * 20, LONGEST])
def test_any_visible_ascii_up_to_8192_characters_is_a_token(token: str) -> None:
    assert read(Job_Token=token).token == token.encode()
    assert read(Authorization=f"Bearer {token}").token == token.encode()
    assert read(f"job_token={token}".encode()).token == token.encode()


@pytest.mark.parametrize(
    "token",
    [LONGEST + "x", "a b", "a\tb", "a\x00b", "\x7f", "a\x1f", "ä", "\xff", "a\nb", "a\u0085b"],
    ids=ascii,
)
def test_anything_else_is_malformed_and_counts_as_no_token(token: str) -> None:
    assert read(Job_Token=token).token is None
    assert read(Authorization=f"Bearer {token}").token is None
    assert read(b"job_token=" + token.encode("latin-1")).token is None


@pytest.mark.parametrize(
    ("control", "asked"),
    [
        ("max-age=5", 5),
        ("MAX-AGE=5", 5),
        ("no-store, max-age=5", 5),
        ("max-age = 5", 5),
        ('max-age="5"', 5),
        ("max-age=3600, max-age=5", 5),
        ("max-age=5, max-age=3600", 5),
        ("max-age=0", 1),
        ("max-age=1", 1),
        ("no-cache", 1),
        ("No-Cache", 1),
        ("max-age=3600, no-cache", 1),
        ("max-age=3600", 3600),
        ("max-age=99999999999999999999", 9999999999),
        ("max-age=1.9", 1),
        ("no-store", None),
        ("min-fresh=5", None),
        ("", None),
        ("max-age", None),
        ("max-age=", None),
        ("max-age=-1", None),
        ("max-age=soon", None),
        ("max-age=\xb2", None),
        ("max-age=" + " " * 10_000, None),
        ("max-age=" * 2_000, None),
        ("\xff\xfe", None),
    ],
    ids=lambda case: ascii(case)[:40],
)
def test_cache_control_asks_for_a_bound_of_at_least_one_second(
    control: str, asked: int | None
) -> None:
    assert read(Cache_Control=control).max_age == asked


def test_without_cache_control_no_bound_is_asked_for() -> None:
    assert read(Job_Token="a").max_age is None


@pytest.mark.parametrize(
    "lines", [(b"no-store", b"max-age=5"), (b"max-age=5", b"no-store")], ids=["last", "first"]
)
def test_several_cache_control_lines_count_as_one_list(lines: tuple[bytes, bytes]) -> None:
    """RFC 9110, 5.3; a line that is passed over would loosen what the caller asked for."""
    assert parse_request([(b"cache-control", line) for line in lines], b"").max_age == 5
