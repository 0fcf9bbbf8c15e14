from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from drone_agent.config import load_config
from drone_agent.errors import ConfigError
from drone_agent.marking.settings import InterlockSettings, MarkingSettings

BOW_TIE = [[0, 0], [2, 2], [2, 0], [0, 2]]
SQUARE = [[0, 0], [2, 0], [2, 2], [0, 2]]

NONSENSE: dict[str, tuple[dict[str, Any], str]] = {
    "negative pulse": ({"budget": {"open_ms": -1}}, "open_ms"),
    "negative cool-down": ({"budget": {"cooldown_ms": -1}}, "cooldown_ms"),
    "negative age": ({"limits": {"pose_max_age_ms": -5}}, "pose_max_age_ms"),
    "negative latency": ({"lead": {"valve_latency_ms": -40}}, "valve_latency_ms"),
    "not a number": ({"limits": {"range_max_m": float("nan")}}, "range_max_m"),
    "infinite": ({"budget": {"min_spacing_m": float("inf")}}, "min_spacing_m"),
    "range window swapped": ({"limits": {"range_min_m": 2.5, "range_max_m": 0.5}}, "range_min_m"),
    "height window swapped": ({"limits": {"height_min_m": 60, "height_max_m": 10}}, "height_min_m"),
    "speed window swapped": ({"limits": {"ground_speed_min_m_s": 2}}, "ground_speed_min_m_s"),
    "switch window swapped": ({"arming_switch": {"rc_on_min_us": 2100, "rc_on_max_us": 1700}}, "rc_on_min_us"),
    "servo window swapped": ({"mavlink": {"servo_min_us": 2000, "servo_max_us": 1000}}, "servo_min_us"),
    "unknown pin": ({"gpio": {"pin": 40}}, "pin"),
    "reserved pin": ({"gpio": {"pin": 0}}, "pin"),
    "unknown sense pin": ({"gpio": {"sense_pin": 99}}, "sense_pin"),
    "the same pin twice": ({"gpio": {"pin": 17, "sense_pin": 17}}, "sense_pin"),
    "unknown pin factory": ({"gpio": {"pin_factory": "magic"}}, "pin_factory"),
    "unknown line": ({"gpiod": {"line": -1}}, "line"),
    "chip that is no device": ({"gpiod": {"chip": "gpiochip0"}}, "chip"),
    "bias that opens the valve": ({"gpiod": {"active_high": True, "bias": "pull_up"}}, "bias"),
    "bias that opens an active-low valve": ({"gpiod": {"active_high": False, "bias": "pull_down"}}, "bias"),
    "unknown relay": ({"mavlink": {"relay": 16}}, "relay"),
    "negative relay": ({"mavlink": {"relay": -1}}, "relay"),
    "unknown servo": ({"mavlink": {"servo": 33}}, "servo"),
    "servo pulse beyond its limits": ({"mavlink": {"servo_open_us": 2400}}, "servo_open_us"),
    "servo pulses that cannot be told apart": (
        {"mavlink": {"servo_open_us": 1500, "servo_closed_us": 1500}},
        "servo_open_us",
    ),
    "unknown method": ({"mavlink": {"method": "do_magic"}}, "method"),
    "unknown port": ({"mavlink": {"guard_connection": "tcp:nowhere"}}, "guard_connection"),
    "port out of range": ({"mavlink": {"guard_connection": "udpout:127.0.0.1:70000"}}, "guard_connection"),
    "a pulse timed here without a connection for the dead-man": (
        {"mavlink": {"method": "set_relay"}},
        "guard_connection",
    ),
    "unknown sprayer": ({"sprayer": "bucket"}, "sprayer"),
    "unknown key": ({"budgte": {}}, "budgte"),
    "unknown interlock": ({"interlocks": {"gravity": False}}, "gravity"),
    "self-crossing polygon": ({"area": {"faces": [{"points": BOW_TIE}]}}, "points"),
    "self-crossing exclusion": ({"area": {"exclude_faces": [{"points": BOW_TIE}]}}, "points"),
    "self-crossing geofence": ({"area": {"geofence": [{"points": BOW_TIE}]}}, "points"),
    "polygon of two corners": ({"area": {"faces": [{"points": SQUARE[:2]}]}}, "points"),
    "latitude beyond the pole": ({"area": {"geofence": [{"points": [[91, 0], [91, 1], [92, 1]]}]}}, "points"),
    "geofence round the back of the earth": (
        {"area": {"geofence": [{"points": [[0, -179], [0, 179], [1, 179]]}]}},
        "points",
    ),
    "mode that never paints": ({"limits": {"modes": ["AUTO", "RTL"]}}, "modes"),
    "mode that is none": ({"limits": {"modes": ["auto pilot"]}}, "modes"),
    "no mode": ({"limits": {"modes": []}}, "modes"),
    "heartbeat loss slower than 250 ms": ({"guard": {"heartbeat_timeout_ms": 251}}, "heartbeat_timeout_ms"),
    "pulse longer than the dead-man allows": ({"budget": {"open_ms": 600}}, "budget.open_ms"),
    "budget shorter than the longest pulse": ({"budget": {"max_total_open_ms": 400}}, "guard.max_open_ms"),
    "interlock lifted without bench": ({"interlocks": {"area": False}}, "interlocks.area"),
    "switch lifted without bench": ({"arming_switch": {"source": "none"}}, "arming_switch.source"),
}


@pytest.mark.parametrize(("block", "key"), NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_refused_at_load_with_file_line_and_key(block: dict[str, Any], key: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump({"marking": block}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file=path)
    message = str(caught.value)
    assert key in message
    assert "marking" in message
    assert str(path) in message


@pytest.mark.parametrize("sprayer", ["gpio", "gpiod", "mavlink"])
@pytest.mark.parametrize(
    "lifted", [*(f"interlocks.{name}" for name in InterlockSettings.model_fields), "arming_switch.source"]
)
def test_no_interlock_may_be_lifted_with_a_sprayer_that_paints(sprayer: str, lifted: str) -> None:
    block, name = lifted.split(".")
    value: Any = "none" if name == "source" else False
    for bench in (True, False):
        with pytest.raises(ValidationError, match=r"bench|lifted"):
            MarkingSettings.model_validate({"sprayer": sprayer, "bench": bench, block: {name: value}})
    relaxed = MarkingSettings.model_validate({"bench": True, block: {name: value}})
    assert relaxed.relaxed() == (lifted,)


def test_bench_alone_is_refused_with_paint() -> None:
    with pytest.raises(ValidationError, match="bench: true is not allowed"):
        MarkingSettings.model_validate({"sprayer": "gpio", "bench": True})


def test_the_defaults_are_the_safe_ones() -> None:
    default = MarkingSettings()
    assert not default.armed
    assert default.sprayer == "dry_run"
    assert not default.paints
    assert not default.bench
    assert default.relaxed() == ()
    assert default.arming_switch.source == "rc"
    assert default.limits.modes == ("AUTO", "GUIDED", "LOITER")
    assert default.mavlink.method == "repeat_relay"
    assert default.guard.heartbeat_timeout_ms <= 250


def test_the_mock_factory_does_not_paint_and_the_real_ones_do() -> None:
    assert not MarkingSettings.model_validate({"sprayer": "gpio", "gpio": {"pin_factory": "mock"}}).paints
    assert MarkingSettings.model_validate({"sprayer": "gpio"}).paints


def test_a_marking_bound_below_the_recording_bound_is_refused() -> None:
    MarkingSettings().check_evidence(4.0)
    with pytest.raises(ConfigError, match=r"marking\.limits\.min_log_odds"):
        MarkingSettings().check_evidence(7.0)


def test_the_shipped_replay_profile_loads_and_says_what_it_lifts() -> None:
    config, _ = load_config("replay")
    assert not config.marking.paints
    assert set(config.marking.relaxed()) >= {"arming_switch.source", "interlocks.range_fresh"}
