from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from drone_agent.clock import ManualClock
from drone_agent.errors import InputError
from drone_agent.flightlog.reader import Flight
from drone_agent.postflight.report import render, write_report
from drone_agent.values import Event
from tests.flightlog.flights import concrete_tile, empty_flight, image_flight, new_log, wall_flight

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order; collects ids, attributes and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.classes: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.problems += [f"{name} is never closed" for name in self.stack]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")
            if name == "class":
                self.classes += (value or "").split()
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack[-1] != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}, open are {self.stack[-3:]}")
        else:
            self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Flight:
    return Flight.open(wall_flight(tmp_path_factory.mktemp("flights"), name="wall"))


@pytest.fixture(scope="module")
def page(wall: Flight) -> Page:
    return Page(render(wall))


def flights(root: Path) -> Iterator[Path]:
    yield wall_flight(root, name="cut", end=None, frames=40, sightings=3)
    yield wall_flight(root, name="none", frames=30, sightings=0)
    yield wall_flight(root, name="stopped", frames=30, sightings=1, end="interrupted")
    yield image_flight(root, name="pixels")
    yield empty_flight(root, name="empty")


def test_every_kind_of_flight_gives_a_well_formed_page_that_needs_no_network(tmp_path: Path) -> None:
    for folder in flights(tmp_path):
        text = write_report(folder).read_text(encoding="utf-8")
        page = Page(text)
        assert page.problems == [], folder.name
        assert len(page.ids) == len(set(page.ids)), folder.name
        assert not re.search(r"https?:", text), folder.name
        for tag, name, value in page.attributes:
            if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
                assert value.startswith(("data:", "#")), f"{folder.name}: {tag} {name}={value[:60]}"
        assert "url(" not in text.replace("url(#", "")
        assert "@import" not in text
        assert not re.search(r"None(?!\.| was)", page.text)
        assert "nan" not in page.text.lower().split()


def test_every_sighting_is_there_with_place_position_picture_and_mark(page: Page, wall: Flight) -> None:
    for sighting in wall.sightings:
        assert f"s{sighting.id}" in page.ids
        assert f"along {sighting.along:.2f} m, height {sighting.height:.2f} m" in page.text
        assert f"{sighting.lat_deg:.7f}, {sighting.lon_deg:.7f}" in page.text
        assert f"evidence {sighting.log_odds:.1f}" in page.text
    assert "it is not the probability of a crack" in page.text
    pictures = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(pictures) == len(wall.sightings) == 25
    image = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (224, 224, 3)
    assert page.classes.count("chip-refused") == len(wall.refusals) == 5
    assert page.classes.count("chip-ordered") == len(wall.orders) == 20


def test_links_lead_somewhere(page: Page) -> None:
    targets = {value[1:] for tag, name, value in page.attributes if tag == "a" and name == "href"}
    assert targets
    assert targets <= set(page.ids)


def test_the_title_block_says_what_is_needed_to_trust_it(page: Page, wall: Flight) -> None:
    for words in (
        "Flight wall",
        "2025-06-12 09:30 UTC",
        "opnet 0.1.0",
        "9f2c4e0b7a1d5c3e",
        "201 in 33 s",
        "3 (25 sightings)",
    ):
        assert words in page.text
    assert "Area inspected 16.4" in page.text


def test_what_was_not_seen_is_said_and_never_called_free_of_cracks(page: Page) -> None:
    for words in (
        "could not be placed on the structure (hole in the telemetry: ",
        "inside the inspected outline never came into view",
        "came into view only in pictures that were not good enough",
        "3 frames were taken by the camera but not examined",
        "“Not seen” never means “no crack”.",
        "78.0 % (72.0–83.0)",
    ):
        assert words in page.text


def test_the_elevation_is_to_scale_and_shows_marks_refusals_gaps_and_path(wall: Flight, page: Page) -> None:
    text = render(wall)
    (svg,) = re.findall(r'<svg viewBox="0 0 [^"]*" class="elevation".*?</svg>', text, re.DOTALL)
    assert svg.count('class="sighting"') == 25
    assert svg.count('class="mark ordered"') == 20
    assert svg.count('class="refused"') == 5
    assert 'class="gap-edge"' in svg
    assert "url(#hatch)" in svg
    assert svg.count('class="track"') == 2
    places = {
        int(number): (float(x), float(y))
        for number, x, y in re.findall(r'href="#s(\d+)"><circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    }
    one, other = wall.sightings[0], wall.sightings[12]
    scale_x = (places[other.id][0] - places[one.id][0]) / (other.along - one.along)
    scale_y = (places[one.id][1] - places[other.id][1]) / (other.height - one.height)
    assert scale_x > 0
    assert scale_x == pytest.approx(scale_y, rel=0.02)


def test_the_time_line_shows_rate_quality_and_events(page: Page) -> None:
    for words in ("frame rate", "sharpness", "tiles not judged", "marks refused", "without place", "frames dropped"):
        assert words in page.text


def test_tables_name_reasons_and_problems(page: Page) -> None:
    for words in (
        "cool down",
        "0.3 s since the last order, 2.0 s needed",
        "blurred",
        "37 bytes at the end are not a whole",
    ):
        assert words in page.text


def test_a_flight_that_was_cut_off_says_so(tmp_path: Path) -> None:
    text = Page(render(Flight.open(wall_flight(tmp_path, frames=30, sightings=1, end=None)))).text
    assert "The log breaks off" in text
    assert "There is no manifest" in text
    interrupted = Page(render(Flight.open(wall_flight(tmp_path, frames=30, sightings=1, end="interrupted")))).text
    assert "interrupted before its end" in interrupted


def test_nothing_found_is_not_sold_as_sound(tmp_path: Path) -> None:
    text = Page(render(Flight.open(wall_flight(tmp_path, frames=30, sightings=0)))).text
    assert "No place showed enough evidence to be reported as a crack. That is no proof of soundness" in text
    nothing = Page(render(Flight.open(empty_flight(tmp_path)))).text
    assert "No frame was processed. This report says nothing about the structure." in nothing
    assert "No place showed enough evidence" not in nothing


def test_without_telemetry_places_are_pixels_and_no_area_is_claimed(tmp_path: Path) -> None:
    page = Page(render(Flight.open(image_flight(tmp_path))))
    assert "not measurable without telemetry" in page.text
    assert "x 400 px, 300 px above the lower edge" in page.text
    assert "m²" not in page.text
    assert page.classes.count("chip-refused") == 4


def test_the_same_flight_gives_the_same_page(tmp_path: Path) -> None:
    folder = wall_flight(tmp_path, frames=30, sightings=2)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_text_from_the_log_cannot_inject_markup_and_passwords_do_not_travel(tmp_path: Path) -> None:
    config = {"camera": {"source": "rtsp://pilot:secret@10.0.0.5/stream"}}
    log = new_log(tmp_path, clock=ManualClock(), config=config)
    evil = "<script>alert(1)</script>"
    log.event(Event("session_started", 0, {"mode": "run", "source": evil}))
    log.event(Event("face", 0, {"name": 'x"><b>', "unit": "m", "cell": 0.05}))
    log.event(Event("coverage", 0, {"face": 'x"><b>', "cells": [[0, 0, 3, 0, -1], [5, 5, 3, 0, -1]]}))
    log.event(Event("warning", 1_000_000_000, {"detail": evil}))
    log.event(Event("sighting", 1, {"id": 1, "face": 'x"><b>', "along": 0.1, "height": 0.1, "cell": [2, 2]}))
    log.close()
    text = render(Flight.open(log.folder))
    assert Page(text).problems == []
    assert evil not in text
    assert evil in Page(text).text
    assert "secret" not in text
    assert "rtsp://***@10.0.0.5/stream" in text


def test_hundreds_of_sightings_stay_a_page_that_opens(tmp_path: Path) -> None:
    log = new_log(tmp_path, clock=ManualClock())
    picture = concrete_tile(1, crack=True)
    log.event(Event("face", 0, {"name": "wall", "unit": "m", "cell": 0.05}))
    for number in range(1, 801):
        column, row = (number * 7) % 900, (number * 13) % 80
        image = log.image(f"sighting-{number:04d}", picture, {})
        place = {"along": (column + 0.5) * 0.05, "height": (row + 0.5) * 0.05, "cell": [column, row]}
        log.event(Event("sighting", number, {"id": number, "face": "wall", **place, "p_max": 0.9, "image": image}))
    log.close()
    text = render(Flight.open(log.folder))
    page = Page(text)
    assert page.problems == []
    assert {f"s{number}" for number in range(1, 801)} <= set(page.ids)
    assert sum(tag == "img" and name == "src" for tag, name, _ in page.attributes) == 600
    assert page.classes.count("no-picture") == 200
    assert len(text) < 20_000_000


def test_a_very_long_wall_is_drawn_in_panels_that_hold_every_sighting_once(tmp_path: Path) -> None:
    log = new_log(tmp_path, clock=ManualClock())
    log.event(Event("face", 0, {"name": "dam", "unit": "m", "cell": 0.5}))
    log.event(Event("coverage", 0, {"face": "dam", "cells": [[c, r, 3, 0, -2] for c in range(200) for r in range(6)]}))
    for number in range(1, 21):
        place = {"along": number * 4.9 + 0.25, "height": 1.25, "cell": [int((number * 4.9 + 0.25) / 0.5), 2]}
        log.event(Event("sighting", number, {"id": number, "face": "dam", **place}))
    log.close()
    drawings = re.findall(r'class="elevation".*?</svg>', render(Flight.open(log.folder)), re.DOTALL)
    assert len(drawings) > 2
    links = re.findall(r'href="#s(\d+)"', "".join(drawings))
    assert sorted(map(int, links)) == list(range(1, 21))


def test_a_changed_file_is_named_in_the_report(tmp_path: Path) -> None:
    folder = wall_flight(tmp_path, frames=30, sightings=1)
    assert "All files agree with the manifest" in render(Flight.open(folder))
    with (folder / "session.json").open("a") as file:
        file.write("\n")
    assert "session.json: changed since the flight ended" in render(Flight.open(folder))


def test_a_picture_that_is_missing_or_damaged_is_said_and_does_not_stop_the_report(tmp_path: Path) -> None:
    folder = wall_flight(tmp_path, frames=30, sightings=2)
    images = sorted((folder / "images").glob("sighting-*.jpg"))
    images[0].unlink()
    images[1].write_bytes(b"\xff")
    page = Page(render(Flight.open(folder)))
    assert page.classes.count("no-picture") == 2


def test_the_report_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    folder = empty_flight(tmp_path / "flights", name="f")
    assert write_report(folder) == folder / "report.html"
    assert write_report(folder, tmp_path / "new" / "r.html").is_file()
    assert write_report(folder, tmp_path / "new") == tmp_path / "new" / "f.html"


def test_a_report_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    folder = empty_flight(tmp_path / "flights")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the report"):
        write_report(folder, tmp_path / "file" / "r.html")
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nothing")
