from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from drone_agent.marking import wire


@given(st.integers(), st.text(max_size=50))
def test_what_is_packed_is_unpacked(number: int, text: str) -> None:
    line = wire.pack("order", id=number, why=text)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert wire.unpack(line[:-1]) == {"k": "order", "id": number, "why": text}


@given(st.lists(st.integers(0, 999), max_size=8), st.data())
def test_messages_are_cut_at_their_ends_however_the_bytes_come(numbers: list[int], data: st.DataObject) -> None:
    stream = b"".join(wire.pack("beat", t=n) for n in numbers)
    lines, got = wire.Lines(), []
    while stream:
        take = data.draw(st.integers(1, len(stream)))
        got += lines.feed(stream[:take])
        stream = stream[take:]
    assert [message["t"] for message in got] == numbers


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_damaged_line_is_believed(at: int, flip: int) -> None:
    line = bytearray(wire.pack("order", id=1, at=123456789, ms=100))[:-1]
    line[at % len(line)] ^= flip
    try:
        message = wire.unpack(bytes(line))
    except wire.WireError:
        return
    # only the case of a hex digit of the checksum may differ
    assert message == {"k": "order", "id": 1, "at": 123456789, "ms": 100}


@given(st.binary(max_size=300))
def test_noise_is_refused_or_kept_waiting(noise: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        assert wire.Lines().feed(noise) == []


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(wire.WireError, match="endless"):
        wire.Lines().feed(b"x" * (wire.MAX_LINE + 1))


@pytest.mark.parametrize("value", ["1", 1.0, None, True])
def test_a_field_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(wire.WireError, match=r"order\.ms"):
        wire.whole({"k": "order", "ms": value}, "ms")
