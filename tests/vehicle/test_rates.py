from __future__ import annotations

import pytest

from drone_agent.vehicle.link_settings import LinkSettings
from drone_agent.vehicle.rates import MAX_INTERVALS, RateKeeper

S = 1_000_000_000


def keeper() -> RateKeeper:
    made = RateKeeper()
    made.want("ATTITUDE", 50)
    made.want("RC_CHANNELS", 5)
    return made


def test_everything_is_asked_for_once_in_whole_milliseconds() -> None:
    rates = keeper()
    assert rates.due(0) == [("ATTITUDE", 20_000), ("RC_CHANNELS", 200_000)]
    assert rates.due(S) == []


def test_a_message_that_comes_as_asked_is_not_asked_for_again() -> None:
    rates = keeper()
    rates.due(0)
    for second in range(1, 30):
        for _ in range(45):
            rates.heard("ATTITUDE")
        for _ in range(5):
            rates.heard("RC_CHANNELS")
        assert rates.due(second * S) == []


def test_a_message_that_stays_away_is_asked_for_again_but_not_in_a_flood() -> None:
    rates = keeper()
    rates.due(0)
    asked = []
    for tenth in range(1, 200):
        if tenth % 2:
            rates.heard("RC_CHANNELS")
        asked += rates.due(tenth * S // 10)
    assert {name for name, _ in asked} == {"ATTITUDE"}
    assert 4 <= len(asked) <= 7


def test_after_a_restart_everything_is_asked_for_at_once() -> None:
    rates = keeper()
    rates.due(0)
    rates.forgotten()
    assert len(rates.due(1)) == 2


def test_more_intervals_than_the_autopilot_keeps_are_refused() -> None:
    rates = RateKeeper()
    for number in range(MAX_INTERVALS):
        rates.want(f"M{number}", 1000 / (10 + number))
    rates.want("SAME", 1000 / 10)
    with pytest.raises(ValueError, match="interval number 11"):
        rates.want("ELEVENTH", 1000 / 99)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        RateKeeper().want("ATTITUDE", rate)


def test_what_was_not_asked_for_does_not_matter() -> None:
    rates = keeper()
    rates.heard("VIBRATION")
    assert len(rates.due(0)) == 2


def test_the_default_rates_leave_room_for_the_sprayers_evidence() -> None:
    rates = RateKeeper()
    for name, rate_hz in LinkSettings().rates().items():
        rates.want(name, rate_hz)
    rates.want("RELAY_STATUS", 50)
    assert len(rates.due(0)) == 8


@pytest.mark.parametrize("connection", ["tcp:nowhere", "udpout:h:99999", "serial", "/dev/tty USB0", "udpin:0.0.0.0:0"])
def test_a_connection_that_is_none_is_refused_at_load(connection: str) -> None:
    with pytest.raises(ValueError, match="connection"):
        LinkSettings(connection=connection)
