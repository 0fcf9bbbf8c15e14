from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drone_agent.errors import SprayerError
from drone_agent.marking import off
from drone_agent.marking.guard_client import child_environment
from drone_agent.marking.settings import MarkingSettings, TraceSettings
from drone_agent.marking.valves import open_valve, valve_spec
from tests.fakes.autopilot import FakeAutopilot


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drone_agent.marking.off", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=child_environment() | environment,
    )


def trace(path: Path) -> dict[str, object]:
    return valve_spec(MarkingSettings(sprayer="trace", trace=TraceSettings(path=str(path))))


def test_the_valve_is_closed_by_a_fresh_process(tmp_path: Path) -> None:
    edges = tmp_path / "edges.txt"
    said = run("--valve", json.dumps(trace(edges)))
    assert said.returncode == 0, said.stderr
    assert edges.read_text().split()[1] == "0"


def test_the_valve_that_was_really_used_wins_over_the_configuration(tmp_path: Path) -> None:
    edges = tmp_path / "edges.txt"
    off.remember(trace(edges), tmp_path / off.VALVE_FILE)
    said = run(RUNTIME_DIRECTORY=str(tmp_path))
    assert said.returncode == 0, said.stderr
    assert edges.exists()


def test_the_configuration_is_the_last_resort(tmp_path: Path) -> None:
    edges, config = tmp_path / "edges.txt", tmp_path / "agent.yaml"
    config.write_text(f"marking:\n  sprayer: trace\n  trace:\n    path: {edges}\n")
    said = run("--config", str(config), RUNTIME_DIRECTORY="")
    assert said.returncode == 0, said.stderr
    assert edges.exists()


def test_without_a_valve_there_is_nothing_to_close() -> None:
    assert "no valve" in run("--valve", '{"kind": "dry_run"}').stderr


@pytest.mark.parametrize(
    "valve",
    [
        '{"kind": "gpio", "pin": 17, "pin_factory": "pigpio"}',
        '{"kind": "bucket"}',
        "{",
        '{"kind": "mavlink", "method": "set_relay"}',
    ],
)
def test_a_valve_that_cannot_be_closed_is_said_loudly_with_exit_code_7(valve: str) -> None:
    said = run("--valve", valve)
    assert said.returncode == 7
    assert "COULD NOT BE CLOSED" in said.stderr


def test_a_relay_at_the_autopilot_is_switched_off() -> None:
    with FakeAutopilot() as autopilot:
        autopilot.relays_on = 0b1
        spec = {"kind": "mavlink", "method": "repeat_relay", "relay": 0, "connection": autopilot.connection}
        assert run("--valve", json.dumps(spec)).returncode == 0
        assert not autopilot.relay_is_on(0)


def test_an_autopilot_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SprayerError, match="cannot be opened"):
        open_valve({"kind": "mavlink", "method": "set_relay", "relay": 0, "connection": "tcp:127.0.0.1:9"})


def test_the_runtime_file_is_where_systemd_says() -> None:
    assert off.runtime_file({"RUNTIME_DIRECTORY": "/run/a:/run/b"}) == Path("/run/a/valve.json")
    assert off.runtime_file({}) is None


def test_a_runtime_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SprayerError, match="cannot be written"):
        off.remember({"kind": "dry_run"}, tmp_path / "missing" / off.VALVE_FILE)


def test_neither_the_dead_man_nor_off_load_the_rest_of_the_program() -> None:
    program = (
        "import sys, drone_agent.marking.guard, drone_agent.marking.off\n"
        "heavy = {'numpy', 'cv2', 'pydantic', 'onnxruntime', 'pymavlink', 'gpiozero', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=child_environment()
    )
    assert said.stdout.strip() == "[]"
