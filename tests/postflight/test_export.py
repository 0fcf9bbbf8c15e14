from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from fastkml import kml
from fastkml.features import Placemark
from fastkml.utils import find_all

from drone_agent.clock import ManualClock
from drone_agent.errors import InputError
from drone_agent.flightlog.reader import Flight
from drone_agent.postflight.export import export_csv, export_geojson, export_kml
from drone_agent.postflight.findings import find
from drone_agent.postflight.flights import open_flight
from drone_agent.values import Event
from tests.flightlog.flights import empty_flight, image_flight, new_log, wall_flight


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Flight:
    return Flight.open(wall_flight(tmp_path_factory.mktemp("flights"), frames=90, sightings=10))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Flight:
    return Flight.open(image_flight(tmp_path_factory.mktemp("flights")))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_for_each_sighting_and_units_in_the_header(wall: Flight, tmp_path: Path) -> None:
    table = rows(export_csv(wall, tmp_path))
    assert [row["sighting"] for row in table] == [str(n) for n in range(1, 11)]
    assert {"along", "height", "unit", "lat_deg", "lon_deg", "alt_amsl_m", "sigma_m", "t_mono_s"} <= set(table[0])
    first, sighting = table[0], wall.sightings[0]
    assert (first["along"], first["height"], first["unit"]) == (str(sighting.along), str(sighting.height), "m")
    assert first["finding"] == "F1"
    assert first["mark"] == "dry run"
    assert table[4]["mark"] == "refused"
    assert "2.0 s needed" in table[4]["mark_detail"]
    assert first["utc"].startswith("2025-06-12T09:30")


def test_csv_works_without_positions_in_pixels(pixels: Flight, tmp_path: Path) -> None:
    table = rows(export_csv(pixels, tmp_path))
    assert [(row["along"], row["unit"], row["lat_deg"], row["utc"]) for row in table] == [
        (f"{400.0 + 40 * n}", "px", "", "") for n in range(4)
    ]


def test_geojson_follows_the_standard(wall: Flight, tmp_path: Path) -> None:
    document = json.loads(export_geojson(wall, tmp_path).read_text(encoding="utf-8"))
    assert document["type"] == "FeatureCollection"
    assert "crs" not in document
    finding_of = {s.id: f"F{finding.number}" for finding in find(wall) for s in finding.sightings}
    assert len(document["features"]) == 10
    for feature, sighting in zip(document["features"], wall.sightings, strict=True):
        assert feature["type"] == "Feature"
        assert feature["id"] == sighting.id
        assert feature["geometry"]["type"] == "Point"
        # longitude first
        assert feature["geometry"]["coordinates"] == pytest.approx(
            [sighting.lon_deg, sighting.lat_deg, sighting.alt_amsl_m], abs=1e-3
        )
        assert feature["geometry"]["coordinates"][:2] == pytest.approx([sighting.lon_deg, sighting.lat_deg], abs=1e-8)
        properties = feature["properties"]
        assert properties["along"] == sighting.along
        assert properties["p_max"] == sighting.p_max
        assert properties["finding"] == finding_of[sighting.id]


def test_kml_can_be_read_back_with_every_place(wall: Flight, tmp_path: Path) -> None:
    path = export_kml(wall, tmp_path)
    document = kml.KML.parse(path, strict=False)
    marks = [mark for mark in find_all(document, of_type=Placemark) if isinstance(mark, Placemark)]
    assert len(marks) == 10
    for mark, sighting in zip(marks, wall.sightings, strict=True):
        assert mark.geometry is not None
        place = list(mark.geometry.coords[0])
        assert place[:2] == pytest.approx([sighting.lon_deg, sighting.lat_deg], abs=1e-8)
        assert place[2:] == pytest.approx([sighting.alt_amsl_m], abs=1e-3)
        assert f"sighting {sighting.id}" in str(mark.name)
    assert "<altitudeMode>absolute</altitudeMode>" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("export", [export_geojson, export_kml])
def test_a_map_without_positions_is_refused_and_says_what_works(pixels: Flight, tmp_path: Path, export: object) -> None:
    assert callable(export)
    with pytest.raises(InputError, match=r"no sighting has a WGS 84 position .* CSV works without"):
        export(pixels, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_csv, export_geojson, export_kml])
def test_a_flight_that_found_nothing_gives_an_empty_but_valid_file(tmp_path: Path, export: object) -> None:
    assert callable(export)
    path = export(Flight.open(empty_flight(tmp_path)), tmp_path / "out")
    text = path.read_bytes().decode()
    assert "sighting 1" not in text
    if path.suffix == ".geojson":
        assert json.loads(text)["features"] == []
    if path.suffix == ".csv":
        assert text.count("\r\n") == 1


def test_text_that_a_spreadsheet_would_run_is_defused(tmp_path: Path) -> None:
    log = new_log(tmp_path, clock=ManualClock())
    place = {"along": -1.0, "height": 2.0, "cell": [0, 0]}
    log.event(Event("sighting", 0, {"id": 1, "face": "=HYPERLINK(1)", **place}))
    log.close()
    (row,) = rows(export_csv(Flight.open(log.folder), tmp_path))
    assert row["face"] == "'=HYPERLINK(1)"
    assert row["along"] == "-1.0"


@pytest.mark.parametrize("export", [export_csv, export_geojson, export_kml])
def test_an_output_that_cannot_be_written_is_one_clear_line(wall: Flight, tmp_path: Path, export: object) -> None:
    assert callable(export)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write") as caught:
        export(wall, tmp_path / "file" / "sub")
    assert os.linesep not in str(caught.value)


def test_a_folder_of_flights_is_refused_with_their_names(tmp_path: Path) -> None:
    empty_flight(tmp_path)
    empty_flight(tmp_path)
    with pytest.raises(InputError, match=r"holds 2 flights, give one of them: flight-0001-3fa2b1c4, flight-0002-"):
        open_flight(tmp_path)
