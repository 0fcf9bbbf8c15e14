"""How do the finds get into other programs? GeoJSON and KML for maps, CSV for tables.

WGS 84 in maps: on a vertical wall all finds lie on a line, so that the place on the wall (`along`, `height`) goes
with every feature. CSV needs no position, and also serves flights without telemetry (in pixels).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fastkml import kml
from fastkml.containers import Document, Folder
from fastkml.data import Data, ExtendedData
from fastkml.enums import AltitudeMode
from fastkml.features import Placemark
from fastkml.geometry import Point as KmlPoint
from pygeoif.geometry import Point

from drone_agent.errors import InputError
from drone_agent.flightlog.files import why, write_atomically
from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import FaceRecord, SightingRecord
from drone_agent.postflight.findings import Finding, find
from drone_agent.postflight.marks import Mark, marks_by_sighting

_KML_NS = "{http://www.opengis.net/kml/2.2}"
# decimals of WGS 84 degrees: 1e-8 is 1 mm
_DEGREE_DIGITS = 8


_COLUMNS = (
    "sighting",
    "finding",
    "face",
    "along",
    "height",
    "unit",
    "lat_deg",
    "lon_deg",
    "alt_amsl_m",
    "sigma_m",
    "p_max",
    "log_odds",
    "looks",
    "range_m",
    "incidence_deg",
    "gsd_mm_px",
    "frame",
    "t_mono_s",
    "utc",
    "mark",
    "mark_detail",
    "image",
)


def export_csv(flight: Flight, out_dir: Path) -> Path:
    """Writes `<flight>.csv`: one line a sighting, RFC 4180, UTF-8; returns its path.

    The header names the units (`_m`, `_deg`, `_mm_px`, `_s`); `along` and `height` are in the column `unit` (m or px).

    Raises:
        InputError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in _rows(flight):
        writer.writerow({key: _defused(value) for key, value in row.items()})
    return _write(out_dir, f"{flight.name}.csv", text.getvalue().encode())


def export_geojson(flight: Flight, out_dir: Path) -> Path:
    """Writes `<flight>.geojson` (RFC 7946: WGS 84, longitude before latitude, metres above mean sea level).

    One point a sighting; its place on the wall, score and mark are in the properties.

    Raises:
        InputError: No sighting has a position, or the file cannot be written.
    """
    _demand_positions(flight, "GeoJSON")
    features = []
    for row, sighting in zip(_rows(flight), flight.sightings, strict=True):
        if sighting.lat_deg is None or sighting.lon_deg is None:
            continue
        properties = {key: value for key, value in row.items() if key not in {"lat_deg", "lon_deg", "alt_amsl_m"}}
        geometry = {"type": "Point", "coordinates": _coordinates(sighting)}
        features.append({"type": "Feature", "id": sighting.id, "geometry": geometry, "properties": properties})
    # foreign members (RFC 7946, 6.1) say which flight this is
    document = {"type": "FeatureCollection", "features": features, "flight": flight.name, "model": _model(flight)}
    return _write(
        out_dir, f"{flight.name}.geojson", json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"
    )


def export_kml(flight: Flight, out_dir: Path) -> Path:
    """Writes `<flight>.kml` (OGC KML 2.2): a folder a face, a placemark a sighting, with all particulars.

    Raises:
        InputError: No sighting has a position, or the file cannot be written.
    """
    _demand_positions(flight, "KML")
    rows = {sighting.id: row for sighting, row in zip(flight.sightings, _rows(flight), strict=True)}
    document = Document(_KML_NS, name=flight.name, description=f"CrackScout, model {_model(flight)}")
    for face in sorted({s.face for s in flight.sightings}):
        folder = Folder(_KML_NS, name=face, description=_face_text(flight.faces.get(face)))
        for sighting in flight.sightings:
            if sighting.face == face and sighting.lat_deg is not None and sighting.lon_deg is not None:
                folder.append(_placemark(sighting, rows[sighting.id]))
        document.append(folder)
    root = kml.KML(_KML_NS, features=[document])
    return _write(out_dir, f"{flight.name}.kml", root.to_string(prettyprint=True).encode())


def _placemark(sighting: SightingRecord, row: Mapping[str, Any]) -> Placemark:
    data = [Data(_KML_NS, name=key, value=str(value)) for key, value in row.items() if value is not None]
    mode = AltitudeMode.clamp_to_ground if sighting.alt_amsl_m is None else AltitudeMode.absolute
    place = f"along {sighting.along:.2f}, height {sighting.height:.2f} {sighting.unit}"
    return Placemark(
        _KML_NS,
        name=f"{row['finding']} · sighting {sighting.id}",
        description=f"{place}, p {sighting.p_max or 0:.2f}",
        kml_geometry=KmlPoint(ns=_KML_NS, geometry=Point(*_coordinates(sighting)), altitude_mode=mode),
        extended_data=ExtendedData(_KML_NS, elements=data),
    )


def _rows(flight: Flight) -> Iterator[dict[str, Any]]:
    """One mapping a sighting, in order: what all exports say of it."""
    finding_of = {s.id: finding for finding in find(flight) for s in finding.sightings}
    marks = marks_by_sighting(flight)
    utc = {event.data.get("id"): event for event in flight.of_kind("sighting")}
    for sighting in flight.sightings:
        mark: Mark | None = marks.get(sighting.id)
        finding: Finding | None = finding_of.get(sighting.id)
        stamp = utc.get(sighting.id)
        yield {
            "sighting": sighting.id,
            "finding": f"F{finding.number}" if finding else None,
            "face": sighting.face,
            "along": sighting.along,
            "height": sighting.height,
            "unit": sighting.unit,
            "lat_deg": sighting.lat_deg,
            "lon_deg": sighting.lon_deg,
            "alt_amsl_m": sighting.alt_amsl_m,
            "sigma_m": sighting.sigma_m,
            "p_max": sighting.p_max,
            "log_odds": sighting.log_odds,
            "looks": sighting.looks,
            "range_m": sighting.range_m,
            "incidence_deg": sighting.incidence_deg,
            "gsd_mm_px": sighting.gsd_mm_px,
            "frame": sighting.frame,
            "t_mono_s": round(sighting.t_mono_ns / 1e9, 3),
            "utc": _utc(stamp.utc_iso) if stamp is not None and stamp.utc_valid else None,
            "mark": mark.state if mark else None,
            "mark_detail": mark.detail if mark else None,
            "image": sighting.image,
        }


def _coordinates(sighting: SightingRecord) -> list[float]:
    lon, lat = round(sighting.lon_deg or 0.0, _DEGREE_DIGITS), round(sighting.lat_deg or 0.0, _DEGREE_DIGITS)
    return [lon, lat] if sighting.alt_amsl_m is None else [lon, lat, round(sighting.alt_amsl_m, 3)]


def _demand_positions(flight: Flight, form: str) -> None:
    if flight.sightings and all(s.lat_deg is None or s.lon_deg is None for s in flight.sightings):
        raise InputError(
            f"{flight.folder}: no sighting has a WGS 84 position (replayed without telemetry?), {form} needs one; "
            "CSV works without"
        )


def _defused(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _utc(iso: str) -> str | None:
    try:
        return datetime.fromisoformat(iso).isoformat(timespec="milliseconds")
    except ValueError:
        return None


def _model(flight: Flight) -> str:
    model = flight.session.get("model")
    if not isinstance(model, dict):
        return "unknown"
    return f"{model.get('name') or model.get('bundle') or 'unknown'} {model.get('version', '')}".strip()


def _face_text(face: FaceRecord | None) -> str:
    if face is None or face.along_bearing_deg is None:
        return ""
    return f"along grows towards {face.along_bearing_deg:.0f}° true; cells of {face.cell:g} {face.unit}"


def _write(out_dir: Path, name: str, content: bytes) -> Path:
    target = out_dir / name
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content, durable=False)
    except OSError as error:
        raise InputError(f"cannot write {target}: {why(error)}") from error
    return target
