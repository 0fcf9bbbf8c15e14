from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from drone_agent.vehicle.outbox import MAX_TEXT_BYTES, Outbox

S = 1_000_000_000


def test_a_burst_passes_and_then_the_average_rate() -> None:
    box = Outbox(per_s=0.5, burst=3)
    for number in range(10):
        box.put(6, f"line {number}")
    assert len(box.due(0)) == 3
    assert len(box.due(S)) == 0
    assert len(box.due(2 * S)) == 1
    assert len(box.due(100 * S)) == 3


def test_the_most_severe_line_goes_first() -> None:
    box = Outbox(1, 1)
    box.put(6, "info")
    box.put(2, "critical")
    assert box.due(0) == [(2, b"critical")]


def test_the_same_line_is_not_queued_twice() -> None:
    box = Outbox(1, 5)
    box.put(4, "spray refused: mode")
    box.put(4, "spray refused: mode")
    assert len(box.due(0)) == 1


def test_what_does_not_fit_is_counted_and_the_least_severe_goes() -> None:
    box = Outbox(1, 30)
    for number in range(25):
        box.put(3 if number == 0 else 6, f"line {number}")
    assert box.dropped == 5
    lines = box.due(0)
    assert lines[0] == (3, b"line 0")
    assert len(lines) == 20


@given(st.text(max_size=80))
def test_a_line_is_cut_to_whole_characters_in_fifty_bytes(text: str) -> None:
    box = Outbox(1, 1)
    box.put(6, text)
    ((_, line),) = box.due(0)
    assert len(line) <= MAX_TEXT_BYTES
    assert text.startswith(line.decode())


@given(st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 4)), max_size=40), st.floats(0.1, 5), st.integers(1, 6))
def test_never_more_than_the_bucket_holds(steps: list[tuple[int, int]], per_s: float, burst: int) -> None:
    box, now, sent, number = Outbox(per_s, burst), 0, 0, 0
    for wait, lines in steps:
        now += wait
        for _ in range(lines):
            number += 1
            box.put(6, f"{number}")
        sent += len(box.due(now))
        assert sent <= burst + per_s * now / S + 1e-6
