"""W3C trace context: what is valid, what goes on, and who is told."""

from uuid import UUID

import pytest

from flux.config import ConfigError, parse_config
from flux.grants import Origin
from flux.trace_context import Parent, make_span_id, parse_traceparent, read_trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ID = UUID("01998f2c-0000-7000-8000-000000000001")


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, True)),
        (f" 00-{TRACE}-{SPAN}-01\t", Parent(TRACE, SPAN, True)),
        (f"01-{TRACE}-{SPAN}-01-what-is-to-come", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"01-{TRACE}-{SPAN}-01more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (f"00-{TRACE[:-1]}٣-{SPAN}-01", None),
        ("redacted:0123456789ab", None),
        ("", None),
    ],
)
def test_a_traceparent_is_valid_or_ignored(text: str, parent: Parent | None) -> None:
    assert parse_traceparent(text) == parent
    trace = read_trace(ID, (("traceparent", text),))
    assert trace.id == (ID.hex if parent is None else TRACE)


def test_an_execution_goes_on_with_its_callers_trace_and_says_which_call_it_was() -> None:
    trace = read_trace(ID, (("x-request-id", "r"), ("traceparent", f"00-{TRACE}-{SPAN}-00"), ("tracestate", "a=1,b=2")))
    assert trace.carry(3) == (
        ("traceparent", f"00-{TRACE}-{make_span_id(ID, 3)}-00"),
        ("tracestate", "a=1,b=2"),
    )
    assert trace.carry(3) == trace.carry(3) != trace.carry(4)
    assert read_trace(ID, ()).carry(1) == (("traceparent", f"00-{ID.hex}-{make_span_id(ID, 1)}-01"),)


def test_two_traceparents_are_none() -> None:
    one, other = ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{TRACE[::-1]}-{SPAN}-01")
    assert read_trace(ID, (one, other)).id == ID.hex


@pytest.mark.parametrize(
    ("states", "joined"),
    [
        (["rojo=00f067aa0ba902b7"], "rojo=00f067aa0ba902b7"),
        (["a=1, b=2", "c@vendor=3"], "a=1,b=2,c@vendor=3"),
        (["a=1,,b=2"], "a=1,b=2"),
        (["a=b=c"], ""),
        (["A=1"], ""),
        (["a=ü"], ""),
        (["a=1\r\nx: y"], ""),
        ([",".join(f"k{number}=v" for number in range(33))], ""),
        (["a=" + "x" * 250, "b=" + "x" * 250, "c=" + "x" * 20], ""),
    ],
)
def test_a_tracestate_is_handed_on_whole_or_not_at_all(states: list[str], joined: str) -> None:
    fields = tuple(("tracestate", state) for state in states)
    assert read_trace(ID, (("traceparent", f"00-{TRACE}-{SPAN}-01"), *fields)).state == joined
    assert read_trace(ID, fields).state == "", "nothing without the trace that it is of"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", {"127.0.0.1"}),
        ('propagate = "private"', {"127.0.0.1"}),
        ("propagate = true", {"127.0.0.1", "api.partner.example", "api.stripe.com"}),
        ("propagate = false", set()),
        ('propagate = ["*.partner.example"]', {"api.partner.example"}),
        ("propagate = []", set()),
    ],
)
def test_who_is_told_of_a_trace(said: str, told: set[str]) -> None:
    propagation = parse_config(f'[project]\nname = "shop"\n[telemetry]\n{said}').telemetry.propagate
    hosts = {"127.0.0.1": True, "api.partner.example": False, "api.stripe.com": False}
    assert told == {
        host for host, is_private in hosts.items()
        if propagation.covers(Origin("https", host, 443), is_private=is_private)
    }  # fmt: skip


@pytest.mark.parametrize("value", ['"public"', "1", '["https://"]', "{}"])
def test_a_mistake_in_who_is_told_is_named_with_its_line(value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(f'[project]\nname = "shop"\n[telemetry]\npropagate = {value}')
    assert "flux.toml:4  telemetry.propagate" in str(raised.value)


def read_collector(url: str) -> str:
    return parse_config(f'[project]\nname = "shop"\n[telemetry]\notlp = "{url}"').telemetry.otlp


@pytest.mark.parametrize("url", ["http://otel_c:4318", "https://c.example/otlp", "http://[::1]:4318/", "http://c", ""])
def test_a_collector_is_an_address(url: str) -> None:
    assert read_collector(url) == url


@pytest.mark.parametrize(
    "url",
    ["http://c:s3cret", "http://c:99999", "http://c:0", "http://c:", "http://:4318", "http://c..d", "http://[s3cret]:1",
     f"http://{'s' * 64}", "http://s3cret@c", "ftp://c", "c:4318"],
)  # fmt: skip
def test_what_no_request_can_be_sent_to_is_no_collector_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_collector(url)
    assert "flux.toml:4  telemetry.otlp is no address of a collector" in str(raised.value)
    assert "s3cret" not in str(raised.value)
