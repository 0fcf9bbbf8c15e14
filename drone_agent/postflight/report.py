"""What does the client get? One HTML file that opens without a network, looks right on paper, and hides nothing.

`write_report` reads a flight's folder and renders `templates/report.html.j2`. Everything is inside the file: styles,
drawings (SVG), thumbnails (data URIs), a little script for filtering that nobody needs for reading. The same folder
gives the same file: nothing in it depends on when or where it was written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from drone_agent.errors import FlightLogError, InputError
from drone_agent.flightlog.files import why, write_atomically
from drone_agent.flightlog.manifest import manifest_hashes, verify_manifest
from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import IMAGE_FOLDER, FrameRecord, SightingRecord
from drone_agent.postflight.coverage_report import FaceCoverage, face_coverage
from drone_agent.postflight.elevation import (
    EVIDENCE_COLOURS,
    EVIDENCE_NAMES,
    EVIDENCE_STEPS,
    Panel,
    elevation,
    evidence_class,
    hatch,
    look_classes,
)
from drone_agent.postflight.findings import Finding, find
from drone_agent.postflight.flights import open_flight
from drone_agent.postflight.marks import Mark, MarkState, marks_by_sighting
from drone_agent.postflight.thumbnail import Thumbnail, thumbnail
from drone_agent.postflight.timeline import timeline

# a page with more pictures than this gets slow; the rest is listed without
_MAX_THUMBNAILS = 600
_MAX_GAPS_LISTED = 25
_MAX_HASHES_LISTED = 40
_DEGREE_DIGITS = 7
_SHA256 = re.compile("[0-9a-f]{64}")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")

_REASONS: Mapping[str, str] = {
    "blur": "blurred",
    "dark": "too dark",
    "bright": "overexposed",
    "flat": "no texture",
    "gsd": "scale outside the model's band",
    "model": "model gave no answer",
    "no_telemetry": "no telemetry",
    "before_start": "before the telemetry begins",
    "after_end": "after the telemetry ends",
    "gap": "hole in the telemetry",
    "no_position": "no usable position",
}

_END_TEXT: Mapping[str, str] = {
    "completed": "The flight was processed to its end.",
    "max_frames": "Only the first frames were processed, as asked; the rest of the recording was not looked at.",
    "interrupted": "The flight was interrupted before its end; nothing after that was looked at.",
    "error": "The flight ended with an error; nothing after that was looked at.",
}


@dataclass(frozen=True, slots=True)
class Card:
    """One sighting in the gallery."""

    sighting: SightingRecord
    mark: Mark | None
    picture: Thumbnail | None
    evidence: str
    strength: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FaceSection:
    """One face: its drawing and its coverage."""

    coverage: FaceCoverage
    panels: list[Panel]
    how: str


def write_report(flight_folder: Path, out: Path | None = None) -> Path:
    """Writes the report of the flight in `flight_folder` and returns its path.

    Args:
        flight_folder: A flight's folder.
        out: The HTML file; an existing folder gets `<flight>.html`; by default `report.html` in the flight's folder.

    Raises:
        InputError: `flight_folder` is not a flight, or the file cannot be written.
        FlightLogError: The log cannot be read.
    """
    flight = open_flight(flight_folder)
    target = flight_folder / "report.html" if out is None else out
    if target.is_dir():
        target = target / f"{flight.name}.html"
    page = render(flight)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, page.encode(), durable=False)
    except OSError as error:
        raise InputError(f"cannot write the report {target}: {why(error)}") from error
    return target


def render(flight: Flight) -> str:
    """The page for an opened flight."""
    environment = Environment(
        loader=PackageLoader("drone_agent.postflight"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["reason"] = lambda code: _REASONS.get(str(code), str(code).replace("_", " "))
    environment.filters["area"] = _area
    environment.filters["count"] = lambda value: f"{value:,}".replace(",", "\u202f")
    return environment.get_template("report.html.j2").render(_context(flight))


def _context(flight: Flight) -> dict[str, Any]:
    findings = find(flight)
    marks = marks_by_sighting(flight)
    names = list(flight.faces) or sorted({s.face for s in flight.sightings})
    faces = []
    for name in names:
        coverage = face_coverage(flight, name)
        mine = [f for f in findings if f.face == name]
        record = flight.faces.get(name)
        how = (record.detail or record.how) if record else ""
        faces.append(FaceSection(coverage, elevation(flight, coverage, mine, marks), how))
    metric = [f.coverage for f in faces if f.coverage.unit == "m"]
    pictures = [f.coverage for f in faces if f.coverage.unit == "px"]
    return {
        "flight": flight,
        "date": _date(flight),
        "model": _model(flight.session),
        "agent_version": _text(flight.session, "agent", "version") or _text(flight.session, "agent_version"),
        "mode": flight.started.mode if flight.started else str(flight.session.get("mode", "unknown")),
        "source": flight.started.source if flight.started else "",
        "faces": faces,
        "metric": metric,
        "pictures": pictures,
        "areas": _areas(metric),
        "findings": findings,
        "cards": _cards(flight, findings, marks),
        "marks": Counter(mark.state for mark in marks.values()),
        "MarkState": MarkState,
        "frames": _frame_facts(flight),
        "end_text": _end_text(flight),
        "sprayer": _text(flight.session, "sprayer", "kind"),
        "timeline": timeline(flight),
        "hatch": hatch(),
        "look_classes": look_classes(faces[0].coverage.looks_wanted) if faces else [],
        "evidence": _evidence_legend(),
        "refusals": _refusals(flight),
        "unknown_reasons": _unknown_reasons(flight),
        "gaps": flight.pose_gaps[:_MAX_GAPS_LISTED],
        "gaps_left": max(0, len(flight.pose_gaps) - _MAX_GAPS_LISTED),
        "start_ns": flight.frames[0].t_mono_ns if flight.frames else 0,
        "notes": flight.notes("error", "camera_lost", "telemetry_problem", "warning"),
        "stages": _stages(flight),
        "configuration": _configuration(flight.session),
        "hashes": _hashes(flight),
        "degree_digits": _DEGREE_DIGITS,
    }


def _date(flight: Flight) -> dict[str, str]:
    """When the flight was, and how far to believe it."""
    for event in flight.events:
        if event.utc_valid:
            try:
                at = datetime.fromisoformat(event.utc_iso).astimezone(UTC)
            except ValueError:
                continue
            return {"text": at.strftime("%Y-%m-%d %H:%M UTC"), "note": ""}
    unix = next((frame.unix_s for frame in flight.frames if frame.unix_s), None)
    if unix is not None:
        return {
            "text": datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "note": "from the recording, not verified",
        }
    return {"text": "unknown", "note": "the computer's clock was not set"}


def _model(session: Mapping[str, Any]) -> dict[str, Any]:
    """What the session says of the model, under the names that the page uses; missing parts are empty."""
    block = session.get("model")
    model: Mapping[str, Any] = block if isinstance(block, Mapping) else {}
    point = model.get("operating_point")
    metrics = model.get("metrics")
    return {
        "name": str(model.get("name") or model.get("bundle") or "unknown"),
        "version": str(model.get("version", "")),
        "architecture": str(model.get("architecture", "")),
        "file": str(model.get("file", "")),
        "sha256": str(model.get("sha256", "")),
        "threshold": model.get("threshold_p"),
        "gsd": model.get("gsd_mm_px") if isinstance(model.get("gsd_mm_px"), Mapping) else {},
        "point": point if isinstance(point, Mapping) else {},
        "metrics": _metrics(metrics if isinstance(metrics, Mapping) else {}),
    }


def _metrics(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    # the bound was fitted on the validation sets; what counts is the rest, if there is one
    tests = {name: values for name, values in metrics.items() if not str(name).endswith("/val")}
    for name, values in (tests or metrics).items():
        if not isinstance(values, Mapping):
            continue
        rows.append(
            {
                "set": str(name),
                "recall": _interval(values.get("recall")),
                "specificity": _interval(values.get("specificity")),
                "positive": str(values.get("n_positive", "–")),
                "negative": str(values.get("n_negative", "–")),
            }
        )
    return rows


def _interval(value: object) -> str:
    """`[value, low, high]` as per cent; a plain number too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{100 * value:.1f} %"
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], int | float):
        middle = f"{100 * value[0]:.1f} %"
        ends = [v for v in value[1:3] if isinstance(v, int | float)]
        return f"{middle} ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})" if len(ends) == 2 else middle
    return "–"


def _areas(coverages: Sequence[FaceCoverage]) -> dict[str, float]:
    """Square metres over all faces."""
    return {
        "seen": sum(c.seen_area for c in coverages),
        "well": sum(c.well_area for c in coverages),
        "poor": sum(c.poor_area for c in coverages),
        "unknown": sum(c.unknown_area for c in coverages),
        "gaps": sum(c.gap_area for c in coverages),
    }


def _cards(flight: Flight, findings: Sequence[Finding], marks: Mapping[int, Mark]) -> dict[int, list[Card]]:
    """Cards by finding. When there are too many for pictures, every finding keeps its strongest ones."""
    ranked = sorted((rank, f.number, s.id) for f in findings for rank, s in enumerate(f.sightings))
    pictured = {sighting for _, _, sighting in ranked[:_MAX_THUMBNAILS]}
    start_ns = flight.frames[0].t_mono_ns if flight.frames else 0
    cards: dict[int, list[Card]] = {}
    for finding in findings:
        cards[finding.number] = [
            Card(
                sighting=sighting,
                mark=marks.get(sighting.id),
                picture=thumbnail(flight, sighting) if sighting.id in pictured else None,
                evidence=_evidence(sighting.log_odds),
                strength=evidence_class(sighting),
                seconds=(sighting.t_mono_ns - start_ns) / 1e9,
            )
            for sighting in finding.sightings
        ]
    return cards


def _evidence(log_odds: float | None) -> str:
    """The accumulated evidence; no probability, for it is counted from the model's threshold."""
    return "–" if log_odds is None else f"{log_odds:.1f}"


def _evidence_legend() -> list[dict[str, str]]:
    strong, very_strong = map(_evidence, EVIDENCE_STEPS)
    edges = [f"below {strong}", f"{strong} or more", f"{very_strong} or more"]
    return [
        {"name": name, "colour": colour, "range": edge}
        for name, colour, edge in zip(EVIDENCE_NAMES, EVIDENCE_COLOURS, edges, strict=True)
    ]


def _frame_facts(flight: Flight) -> dict[str, Any]:
    frames = flight.frames
    gsd = sorted(frame.gsd_mm_px for frame in frames if frame.gsd_mm_px is not None)
    tiles = sum(frame.tiles for frame in frames)
    unknown = sum(frame.unknown for frame in frames)
    unplaced = sum(frame.no_pose is not None for frame in frames)
    duration_s = (frames[-1].t_mono_ns - frames[0].t_mono_ns) / 1e9 if frames else 0.0
    return {
        "count": len(frames),
        "tiles": tiles,
        "unknown": unknown,
        "unknown_share": 100 * unknown / tiles if tiles else 0.0,
        "unplaced": unplaced,
        "unplaced_share": 100 * unplaced / len(frames) if frames else 0.0,
        "dropped": flight.dropped_frames,
        "duration": _duration(duration_s),
        "fps": (len(frames) - 1) / duration_s if duration_s > 0 else None,
        "gsd_median": gsd[len(gsd) // 2] if gsd else None,
        "gsd_low": gsd[0] if gsd else None,
        "gsd_high": gsd[-1] if gsd else None,
        "sigma": _median([frame.pose.sigma_m for frame in frames if frame.pose and frame.pose.sigma_m is not None]),
        "unplaced_reasons": _unplaced_reasons(frames),
    }


def _unplaced_reasons(frames: Sequence[FrameRecord]) -> list[tuple[str, int]]:
    return Counter(frame.no_pose for frame in frames if frame.no_pose is not None).most_common()


def _median(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def _end_text(flight: Flight) -> str:
    ended = flight.ended
    if ended is None:
        return "The log breaks off: the flight was cut short (power, crash). What was recorded until then is shown."
    text = _END_TEXT.get(ended.reason, f"The flight ended: {ended.reason}.")
    return f"{text} ({ended.detail})" if ended.detail else text


def _refusals(flight: Flight) -> list[dict[str, Any]]:
    """Refusals by reason: how often, for how many sightings, and one example of what was found and allowed."""
    times: Counter[str] = Counter()
    sightings: dict[str, set[int]] = {}
    examples: dict[str, str] = {}
    for refusal in flight.refusals:
        for index, reason in enumerate(refusal.reasons):
            times[reason] += 1
            sightings.setdefault(reason, set()).add(refusal.sighting_id)
            if index < len(refusal.details):
                examples.setdefault(reason, refusal.details[index])
    return [
        {"reason": reason, "times": count, "sightings": len(sightings[reason]), "example": examples.get(reason, "")}
        for reason, count in times.most_common()
    ]


def _unknown_reasons(flight: Flight) -> list[tuple[str, int]]:
    reasons: Counter[str] = Counter()
    for frame in flight.frames:
        reasons.update(frame.unknown_reasons)
    unexplained = sum(frame.unknown for frame in flight.frames) - reasons.total()
    if unexplained > 0:
        reasons["not recorded"] += unexplained
    return reasons.most_common()


def _stages(flight: Flight) -> list[dict[str, Any]]:
    """Where the time of a frame went, the longest first."""
    ended = flight.ended
    if ended is None or not ended.host_stage_ms:
        return []
    total = sum(ended.host_stage_ms.values())
    frames = max(1, ended.frames)
    return [
        {"name": name, "total_s": ms / 1000, "per_frame": ms / frames, "share": 100 * ms / total if total else 0.0}
        for name, ms in sorted(ended.host_stage_ms.items(), key=lambda item: -item[1])
    ]


def _configuration(session: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The session's blocks as YAML text, for the appendix."""
    blocks = []
    for name, value in session.items():
        if isinstance(value, Mapping | list) and value and name != "inputs":
            blocks.append((name, _yaml(value)))
    plain = {name: value for name, value in session.items() if not isinstance(value, Mapping | list)}
    if plain:
        blocks.insert(0, ("session", _yaml(plain)))
    return blocks


def _yaml(value: object) -> str:
    """`value` as YAML, without the passwords of camera addresses: a report is passed on."""
    return _CREDENTIALS.sub("://***@", yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))


def _hashes(flight: Flight) -> dict[str, Any]:
    """SHA-256 of inputs and of the flight's own files, and whether they still hold."""
    inputs = flight.session.get("inputs")
    rows = []
    for name, value in inputs.items() if isinstance(inputs, Mapping) else ():
        if isinstance(value, Mapping):
            rows.append((str(value.get("name") or name), str(value.get("sha256") or "")))
        elif _SHA256.fullmatch(str(value)):
            rows.append((str(name), str(value)))
        elif value:
            rows.append((f"{name}: {value}", ""))
    try:
        problems = verify_manifest(flight.folder)
        rows += manifest_hashes(flight.folder)
    except FlightLogError as error:
        problems = [str(error)]
    if problems is None:
        state = "There is no manifest: the flight did not end cleanly, so its files cannot be verified."
    elif problems:
        state = "Files differ from the manifest of the flight's end: " + "; ".join(problems[:10])
    else:
        state = "All files agree with the manifest that was written when the flight ended."
    rows = [row for row in rows if not row[0].startswith(f"{IMAGE_FOLDER}/")]
    return {"inputs": rows[:_MAX_HASHES_LISTED], "state": state, "good": problems == []}


def _text(session: Mapping[str, Any], *keys: str) -> str:
    value: Any = session
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.0f} s"


def _area(square_metres: float) -> Markup:
    """An area with sensible digits and its unit."""
    digits = 0 if square_metres >= 100 else 1 if square_metres >= 10 else 2
    return Markup("{}&nbsp;m²").format(f"{square_metres:.{digits}f}")
