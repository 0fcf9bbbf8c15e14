"""Close the valve, whatever else has happened: `python -m drone_agent.marking.off`.

For systemd's `ExecStopPost`, and for the agent when its dead-man dies. The valve is taken, in this order, from
`--valve` (JSON), from `valve.json` in the service's runtime folder (written at the start of every run, so it is the
valve that was really used), or from the configuration. Exit code 0: closed, or there is no valve; 7: it could not be
closed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from drone_agent.errors import AgentError, SprayerError
from drone_agent.marking.valves import Spec, open_valve, valve_spec

VALVE_FILE = "valve.json"


def runtime_file(environment: dict[str, str] | None = None) -> Path | None:
    """`valve.json` in the first folder of RUNTIME_DIRECTORY, which systemd sets; None outside of a service."""
    folder = (os.environ if environment is None else environment).get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(folder) / VALVE_FILE if folder else None


def remember(spec: Spec, path: Path | None = None) -> None:
    """Writes the valve for a later `off`; outside of a service nothing is written. Raises SprayerError."""
    path = path or runtime_file()
    if path is None:
        return
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(dict(spec)), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise SprayerError(f"{path}: cannot be written: {error.strerror}; ExecStopPost needs it") from error


def switch_off(spec: Spec) -> str:
    """Closes the valve of `spec` and lets go of it; says what was done. Raises SprayerError."""
    if spec.get("kind") in {None, "dry_run"}:
        return "no valve to close"
    valve = open_valve(spec)
    try:
        valve.set(is_open=False)
        if valve.level():
            raise SprayerError("the output reads open although it was closed: use the master switch")
    finally:
        valve.close()
    return f"{spec['kind']}: closed"


def _spec(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.valve is not None:
        return dict(json.loads(arguments.valve))
    path = runtime_file()
    if path is not None and path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    # Only now the whole configuration with its checks, half a second more; by name, because nothing in this folder may
    # depend on what is composed above it.
    config, _ = importlib.import_module("drone_agent.config").load_config(arguments.profile, arguments.config)
    link = getattr(config.vehicle, "link", None)
    return valve_spec(config.marking, getattr(link, "connection", None))


def main(argv: list[str] | None = None) -> int:
    """Entry point; prints one line to stderr."""
    parser = argparse.ArgumentParser(prog="python -m drone_agent.marking.off", description="Closes the spray valve.")
    parser.add_argument("--valve", help="the valve as JSON")
    parser.add_argument("--config", type=Path, help="configuration file, if there is no valve.json")
    parser.add_argument("--profile", help="profile, if there is no valve.json")
    try:
        said, code = switch_off(_spec(parser.parse_args(argv))), 0
    except (AgentError, ValueError, OSError) as error:
        said, code = f"THE VALVE COULD NOT BE CLOSED: {error}", 7
    sys.stderr.write(f"{said}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
