"""How fast is CrackScout on this machine? Ratios of one interleaved run on one thread: milliseconds do not travel.

    python bench/run.py [--models NAME ...] [--rounds N] [--flight FOLDER] [--json FILE]

Three questions:

* int8 against fp32: time of a tile for each model bundle, both files in turn in every round;
* the agent's own work (everything but decoding and the model) as a share of a frame's time in a replay at 1280x720;
* resident memory of that replay, and how it grows over the flight.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from drone_agent import resources
from drone_agent.errors import AgentError
from drone_agent.simulation.recording import make_recording
from drone_agent.simulation.renderer import Pinhole
from drone_agent.values import Image, Tile
from drone_agent.vision.bundle import load_bundle
from drone_agent.vision.ort import OrtClassifier

INT8_SHARE_OF_FP32 = 0.45
OWN_WORK_SHARE = 0.15
PEAK_MB = 350.0
GROWTH_MB_PER_1000_FRAMES = 10.0

BATCHES = (1, 8)
TILE_PX = 224
# The field of view of the demo's camera at 1280x720: the same scale on the wall, three times the pixels.
CAMERA = Pinhole(width=1280, height=720, fx=1680.0, fy=1680.0, cx=639.5, cy=359.5)
# Before this share of the flight buffers still fill: memory counts from here on.
SETTLED = 0.3


def main() -> int:
    """Runs the benchmark. Returns 0 if every target claimed on this host is met, 1 if not, 2 on bad input."""
    options = _arguments()
    console = Console(width=110)
    if options.replay_child:
        sys.stdout.write(json.dumps(_replay(Path(options.replay_child), options.models[0])))
        return 0
    names = options.models or resources.model_names()
    if not names:
        console.print("No model bundle in exported_models/: export one first (crack-training export), or name one.")
        return 2
    host = _host()
    console.print(_host_line(host))
    _pin()
    try:
        tiles = [_bench_tiles(name, options.rounds) for name in names]
        console.print(_tile_table(tiles, host))
        flight = _bench_replay(options.flight, names[0])
    except AgentError as error:
        console.print(f"error: {error}", style="red")
        return 2
    console.print(_replay_table(flight))
    verdicts = _verdicts(tiles, flight, host)
    console.print(_verdict_table(verdicts))
    result = {"host": host, "tiles": tiles, "replay": flight, "verdicts": verdicts}
    target = options.json or Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {target}")
    return 1 if any(verdict["met"] is False for verdict in verdicts) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="bundles, by name or path (default: all that are shipped)")
    parser.add_argument("--rounds", type=int, default=25, help="rounds of the interleaved measurement (default 25)")
    parser.add_argument("--flight", type=Path, help="recorded flight to replay (default: one made for the purpose)")
    parser.add_argument("--json", type=Path, help="where the figures go (default: bench/results/<time>.json)")
    parser.add_argument("--replay-child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error(f"--rounds: found {options.rounds}, allowed is 3 or more")
    return options


def _host() -> dict[str, Any]:
    """What the figures depend on: processor, vector units, versions, and how busy the machine is."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")
    return {
        "cpu": facts.get("model name") or facts.get("Model") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "features": {name: name in flags for name in wanted},
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "onnxruntime": ort.__version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
    }


def _host_line(host: dict[str, Any]) -> str:
    has = ", ".join(f"{name} {'yes' if found else 'no'}" for name, found in host["features"].items())
    busy = "" if host["load_before"] < 0.5 else "; other programs are running, the ratios hold better than the times"
    return f"{host['cpu']} ({host['machine']}), {has}; load {host['load_before']:.1f}{busy}"


def _pin() -> None:
    """One core and one thread for everything that this process does."""
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _bench_tiles(name: str, rounds: int) -> dict[str, Any]:
    """Time of a tile for each file of a bundle, through the classifier that flies; all files in turn in every round."""
    files = list(load_bundle(name).manifest.files)
    classifiers = {file: OrtClassifier(load_bundle(name, file=file), threads=1, batch=max(BATCHES)) for file in files}
    image, tiles = _picture(max(BATCHES))
    times: dict[tuple[str, int], list[float]] = {(file, batch): [] for file in files for batch in BATCHES}
    for classifier in classifiers.values():
        classifier.score(image, tiles)
    for turn in range(rounds):
        # Whoever comes first finds another cache than the second: take turns.
        order = files if turn % 2 == 0 else files[::-1]
        for batch in BATCHES:
            for file in order:
                seconds = _cpu_seconds(partial(classifiers[file].score, image, tiles[:batch]))
                times[file, batch].append(1000.0 * seconds / batch)
    found: dict[str, Any] = {"model": load_bundle(name).name, "rounds": rounds, "ms_per_tile": {}, "int8_of_fp32": {}}
    for batch in BATCHES:
        found["ms_per_tile"][str(batch)] = {file: _spread(times[file, batch]) for file in files}
        if {"int8", "fp32"} <= set(files):
            pairs = zip(times["int8", batch], times["fp32", batch], strict=True)
            found["int8_of_fp32"][str(batch)] = _spread([int8 / fp32 for int8, fp32 in pairs])
    return found


def _picture(count: int) -> tuple[Image, list[Tile]]:
    """Noise of the brightness of concrete, and `count` tiles of it side by side."""
    image = np.random.default_rng(0).normal(150.0, 20.0, (TILE_PX, TILE_PX * count, 3))
    tiles = [Tile(TILE_PX * k, 0, TILE_PX) for k in range(count)]
    return np.clip(image, 0, 255).astype(np.uint8), tiles


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of this thread: what others do on the machine in the meantime does not count."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _bench_replay(flight: Path | None, model: str) -> dict[str, Any]:
    """Replays a flight in a fresh process, so that its memory is its own."""
    with tempfile.TemporaryDirectory(prefix="crackscout-bench-") as scratch:
        if flight is None:
            flight = Path(scratch) / "flight"
            make_recording(flight, seed=1, camera=CAMERA)
        child = [sys.executable, __file__, "--replay-child", str(flight), "--models", model]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1"}
        # Our own file in our own interpreter, with paths as single arguments.
        done = subprocess.run(child, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AgentError(f"the replay failed: {last}")
    return dict(json.loads(done.stdout))


def _replay(flight: Path, model: str) -> dict[str, Any]:
    """The child: replays `flight` and tells where the time went and how the memory developed."""
    from drone_agent.app import ReplayRequest, replay_flight
    from drone_agent.config import load_config

    cv2.setNumThreads(1)
    spent_s = _time_the_model()
    resident_mb: list[float] = []
    with tempfile.TemporaryDirectory(prefix="crackscout-bench-out-") as out:
        config, layers = load_config("replay", None, [f"vision.model={model}"])
        request = ReplayRequest(
            flight / "video.mp4", flight / "telemetry.tlog", flight / "frames.csv", flight / "camera.json", Path(out)
        )
        outcome = replay_flight(
            config, request, layers=layers, on_frame=lambda _total: resident_mb.append(_resident_mb())
        )
        events = (
            path.read_text(encoding="utf-8").splitlines() for path in sorted(outcome.folder.glob("events-*.jsonl"))
        )
        ended = next(
            event["data"] for part in events for event in map(json.loads, part) if event["kind"] == "session_ended"
        )
    if outcome.error is not None:
        raise outcome.error
    camera = json.loads((flight / "camera.json").read_text(encoding="utf-8"))
    return {
        "flight": flight.name,
        "model": load_bundle(model).name,
        "size": [camera["width"], camera["height"]],
        "frames": ended["frames"],
        "tiles": ended["tiles"],
        **_shares(ended, 1000.0 * sum(spent_s)),
        **_growth(resident_mb),
        "peak_mb": _peak_mb(),
    }


def _time_the_model() -> list[float]:
    """From now on every run of ONNX Runtime adds its wall time (s) to the list returned."""
    spent_s: list[float] = []
    run = ort.InferenceSession.run

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        answer = run(*args, **kwargs)
        spent_s.append(time.perf_counter() - started)
        return answer

    ort.InferenceSession.run = timed
    return spent_s


def _shares(ended: dict[str, Any], model_ms: float) -> dict[str, Any]:
    """Milliseconds a frame and shares; `rest` is what the loop spends outside the stages it names."""
    frames, total_ms = ended["frames"], 1000.0 * ended["host_seconds"]
    stages = dict(ended["host_stage_ms"])
    stages["vision (without the model)"] = stages.pop("vision") - model_ms
    decode_ms = stages.pop("decode")
    stages["rest"] = total_ms - model_ms - decode_ms - sum(stages.values())
    return {
        "ms_per_frame": total_ms / frames,
        "model_share": model_ms / total_ms,
        "decode_share": decode_ms / total_ms,
        "own_share": sum(stages.values()) / total_ms,
        "own_ms_per_frame": {name: ms / frames for name, ms in sorted(stages.items())},
    }


def _growth(resident_mb: Sequence[float]) -> dict[str, Any]:
    """Slope of resident memory over the settled part of the flight, as a line through all its frames."""
    settled = np.array(resident_mb[int(SETTLED * len(resident_mb)) :])
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0]) if len(settled) > 2 else 0.0
    return {
        "resident_mb_settled": float(settled[0]),
        "resident_mb_end": float(settled[-1]),
        "growth_mb_per_1000_frames": 1000.0 * slope,
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak_mb() -> float:
    """High-water mark of this process. Not ru_maxrss: that one starts with the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024.0


def _verdicts(tiles: list[dict[str, Any]], flight: dict[str, Any], host: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target with what was found; `met` is None where the target is not claimed for this kind of host."""
    verdicts = []
    for item in tiles:
        if item["model"] != "opnet" or not item["int8_of_fp32"]:
            continue
        found = min(spread["median"] for spread in item["int8_of_fp32"].values())
        claimed = host["features"]["avx512_vnni"]
        verdicts.append(_verdict("int8 OPNet, share of fp32 (AVX512-VNNI hosts)", found, INT8_SHARE_OF_FP32, claimed))
    verdicts.append(_verdict("own work, share of a frame's time", flight["own_share"], OWN_WORK_SHARE))
    verdicts.append(_verdict("peak memory of the replay (MB)", flight["peak_mb"], PEAK_MB))
    growth = flight["growth_mb_per_1000_frames"]
    verdicts.append(_verdict("growth of memory (MB a 1000 frames)", growth, GROWTH_MB_PER_1000_FRAMES))
    return verdicts


def _verdict(target: str, found: float, allowed: float, claimed: bool = True) -> dict[str, Any]:
    return {"target": target, "found": found, "allowed": allowed, "met": found <= allowed if claimed else None}


def _tile_table(tiles: list[dict[str, Any]], host: dict[str, Any]) -> Table:
    vnni = "with" if host["features"]["avx512_vnni"] or host["features"]["asimddp"] else "without"
    table = Table(title=f"Time of a tile, one thread, {vnni} integer dot products (median, min to max)")
    for heading in ("model", "batch", "fp32 ms", "int8 ms", "int8 / fp32"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for item in tiles:
        for batch in map(str, BATCHES):
            files = item["ms_per_tile"][batch]
            ratio = item["int8_of_fp32"].get(batch)
            cells = [_cell(files.get("fp32"), 1), _cell(files.get("int8"), 1), _cell(ratio, 2)]
            table.add_row(item["model"], batch, *cells)
    return table


def _cell(spread: dict[str, float] | None, digits: int) -> str:
    if spread is None:
        return "-"
    return "{median:.{d}f} ({min:.{d}f} to {max:.{d}f})".format(**spread, d=digits)


def _replay_table(flight: dict[str, Any]) -> Table:
    width, height = flight["size"]
    table = Table(
        title=f"Replay at {width}x{height}: {flight['model']}, {flight['frames']} frames, {flight['tiles']} tiles"
    )
    table.add_column("where the time goes")
    table.add_column("ms a frame", justify="right")
    table.add_column("share", justify="right")
    total = flight["ms_per_frame"]
    for name in ("model", "decode"):
        table.add_row(name, f"{flight[f'{name}_share'] * total:.2f}", f"{flight[f'{name}_share']:.1%}")
    for name, ms in flight["own_ms_per_frame"].items():
        table.add_row(f"own: {name}", f"{ms:.2f}", f"{ms / total:.1%}")
    table.add_row("own work together", f"{flight['own_share'] * total:.2f}", f"{flight['own_share']:.1%}", style="bold")
    table.add_section()
    table.add_row(
        "memory when settled, at the end",
        f"{flight['resident_mb_settled']:.0f} MB",
        f"{flight['resident_mb_end']:.0f} MB",
    )
    return table


def _verdict_table(verdicts: list[dict[str, Any]]) -> Table:
    table = Table(title="Targets")
    for heading in ("target", "found", "allowed", ""):
        table.add_column(heading, justify="left" if heading in {"target", ""} else "right")
    words = {True: "met", False: "MISSED", None: "not claimed on this host"}
    for item in verdicts:
        table.add_row(item["target"], f"{item['found']:.3g}", f"{item['allowed']:g}", words[item["met"]])
    return table


if __name__ == "__main__":
    sys.exit(main())
