from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from drone_agent.inspection.inspection import Inspection, Observation
from drone_agent.inspection.projection import ImageProjector
from drone_agent.inspection.settings import ImageSurfaceSettings, InspectionSettings
from drone_agent.values import NoPose, Place, Sighting, Verdict
from drone_agent.vehicle.geometry import CameraModel, Face, WallProjector
from drone_agent.vehicle.settings import CameraMountSettings, SurfaceSettings, VehicleSettings
from tests.inspection.scenes import PICTURE, TILES, WALL, frame, on_wall, pixel_of, pose, score, scores_of

# In the middle of a tile row for a camera at a height of 2 m.
CRACK = (3.02, 2.08)


def fly(
    inspection: Inspection,
    cracks: tuple[float, float] | None = CRACK,
    *,
    start: float = 2.6,
    step: float = 0.07,
    count: int = 12,
    first_index: int = 0,
    first_s: float = 0.0,
) -> list[Observation]:
    seen = []
    for i in range(count):
        at = pose(start + i * step)
        pixel = None if cracks is None else pixel_of(*cracks, at)
        seen.append(inspection.observe(frame(first_index + i, first_s + i / 6), at, scores_of(pixel)))
    return seen


def sightings(seen: list[Observation]) -> list[Sighting]:
    return [sighting for observation in seen for sighting in observation.sightings]


def test_a_crack_seen_from_several_places_becomes_one_sighting_at_its_place() -> None:
    (sighting,) = sightings(fly(on_wall()))
    assert math.hypot(sighting.place.along - CRACK[0], sighting.place.height - CRACK[1]) < 0.05
    assert sighting.place.face == "wall"
    assert sighting.looks >= 2
    assert sighting.p_max == pytest.approx(1 / (1 + math.exp(-3)))
    assert sighting.range_m == pytest.approx(2.0, abs=0.1)
    assert sighting.gsd_mm_px == pytest.approx(1.0)
    assert sighting.sigma_m is not None
    assert 0.1 < sighting.sigma_m < 0.12


def test_a_sighting_carries_the_wgs84_of_its_place() -> None:
    (sighting,) = sightings(fly(on_wall()))
    assert sighting.geo is not None
    # The vehicle's own position stays the same in this scene; the wall is 2 m north of it, the crack at its height.
    assert sighting.geo.lat_deg == pytest.approx(47.0 + 2.0 / 111_170, abs=1e-7)
    assert sighting.geo.alt_amsl_m == pytest.approx(400.0, abs=0.1)


def test_the_tile_of_a_sighting_shows_the_place() -> None:
    inspection = on_wall()
    for observation in fly(inspection):
        for sighting in observation.sightings:
            x, y = pixel_of(sighting.place.along, sighting.place.height, pose(2.6 + observation.frame_index * 0.07))
            assert sighting.tile.x_px <= x <= sighting.tile.x_px + sighting.tile.size_px
            assert sighting.tile.y_px <= y <= sighting.tile.y_px + sighting.tile.size_px


def test_one_picture_is_never_enough() -> None:
    settings = InspectionSettings(confirm_log_odds=0.5)
    assert sightings(fly(on_wall(settings), count=1)) == []
    assert len(sightings(fly(on_wall(settings), count=3))) == 1


def test_hovering_adds_no_evidence() -> None:
    assert sightings(fly(on_wall(), step=0.0, count=60)) == []


def test_the_evidence_of_a_pass_does_not_depend_on_the_frame_rate() -> None:
    column, row = 60, 41
    beliefs = []
    for step in (0.05, 0.10, 0.20):
        inspection = on_wall(InspectionSettings(look_limit=0.5, belief_limit=20.0))
        fly(inspection, CRACK, start=2.5, step=step, count=round(1.0 / step) + 1)
        beliefs.append(inspection.log_odds("wall", column, row))
    assert max(beliefs) - min(beliefs) < 0.25 * (max(beliefs) + 1.0)


def test_a_clear_wall_gives_no_sighting_and_full_coverage() -> None:
    inspection = on_wall()
    assert sightings(fly(inspection, None)) == []
    (summary,) = inspection.coverage()
    assert summary.seen_cells > 500
    assert summary.found_cells == 0


def test_unknown_tiles_never_confirm_and_never_count_as_seen() -> None:
    inspection = on_wall()
    for i in range(20):
        inspection.observe(frame(i), pose(2.6 + 0.07 * i), [score(tile, None) for tile in TILES])
    (summary,) = inspection.coverage()
    assert (summary.seen_cells, summary.found_cells) == (0, 0)
    assert summary.unknown_cells > 500


def test_a_logit_on_a_refused_tile_is_not_believed() -> None:
    inspection = on_wall(InspectionSettings(confirm_log_odds=0.5))
    for i in range(20):
        refused = [
            score_ if score_.verdict is Verdict.CLEAR else type(score_)(score_.tile, Verdict.UNKNOWN, 5.0, 0.99, "blur")
            for score_ in scores_of(pixel_of(*CRACK, pose(2.6 + 0.07 * i)))
        ]
        assert inspection.observe(frame(i), pose(2.6 + 0.07 * i), refused).sightings == ()


def test_a_frame_without_pose_changes_nothing_and_says_why() -> None:
    inspection = on_wall()
    observation = inspection.observe(frame(0), NoPose(0, "gap", "0.9 s"), scores_of((640, 360)))
    assert observation.face is None
    assert observation.no_view is not None
    assert observation.no_view.reason == "gap"
    assert observation.looks == ()
    assert inspection.coverage_delta() == []


def test_one_crack_gets_one_sighting_every_spacing() -> None:
    inspection = on_wall(InspectionSettings(mark_spacing_m=0.2))
    found: list[Sighting] = []
    for i in range(16):
        at = pose(2.5 + 0.07 * i)
        scores = []
        for tile in TILES:
            # A horizontal crack through the whole view at a height of 2.08 m.
            v = (360 - 80 - tile.y_px) / 224
            cells = np.full((14, 14), -1.0, np.float32)
            if 0 <= v < 1:
                cells[int(v * 14), :] = 20.0
            scores.append(
                type(scores_of(None)[0])(
                    tile, Verdict.CRACK if 0 <= v < 1 else Verdict.CLEAR, 3.0 if 0 <= v < 1 else -3.0, 0.95, cells=cells
                )
            )
        found += inspection.observe(frame(i), at, scores).sightings
    along = sorted(sighting.place.along for sighting in found)
    gaps = np.diff(along)
    assert len(found) >= 5
    assert gaps.min() >= 0.2
    assert gaps.max() < 0.4


def test_near_a_mark_from_before_a_restart_nothing_asks_for_paint() -> None:
    inspection = on_wall()
    inspection.mark(Place("wall", CRACK[0] + 0.1, CRACK[1], (62, 40)))
    seen = fly(inspection)
    assert sightings(seen) == []
    assert all(not observation.offers for observation in seen)


def test_a_mark_counts_only_within_the_spacing_and_on_its_face() -> None:
    inspection = on_wall(InspectionSettings(mark_spacing_m=0.2))
    inspection.mark(Place("wall", 1.0, 1.0, (20, 20)))
    assert inspection.is_marked(Place("wall", 1.1, 1.1, (22, 22)))
    assert not inspection.is_marked(Place("wall", 1.21, 1.0, (24, 20)))
    assert not inspection.is_marked(Place("other", 1.0, 1.0, (20, 20)))
    assert inspection.is_marked(Place("wall", 1.21, 1.0, (24, 20)), 0.25)


def test_a_sighting_without_mark_asks_again_on_the_next_pass_and_a_marked_one_does_not() -> None:
    for marked in (False, True):
        inspection = on_wall()
        (first,) = sightings(fly(inspection))
        if marked:
            inspection.mark(first.place)
        again = fly(inspection, first_index=100, first_s=60.0)
        offers = [offer for observation in again for offer in observation.offers]
        assert sightings(again) == []
        assert {offer.sighting_id for offer in offers} == (set() if marked else {first.sighting_id})
        assert all(offer.place == first.place and offer.t_mono_ns >= 60e9 for offer in offers)


def test_a_new_sighting_is_offered_at_once() -> None:
    for observation in fly(on_wall()):
        assert observation.offers[: len(observation.sightings)] == observation.sightings


def test_a_sighting_does_not_ask_more_often_than_the_pause() -> None:
    seen = fly(on_wall(InspectionSettings(reoffer_s=0.5)), count=16)
    times = [observation.t_mono_ns for observation in seen for _ in observation.offers]
    assert len(times) >= 2
    assert min(np.diff(times)) >= 0.5e9


def test_nothing_beyond_the_walls_ends_is_held() -> None:
    inspection = on_wall()
    for i in range(6):
        inspection.observe(frame(i), pose(0.0 + 0.07 * i, up=0.1), scores_of((300.0, 300.0)))
    (delta,) = inspection.coverage_delta()
    columns, rows = [cell[0] for cell in delta.cells], [cell[1] for cell in delta.cells]
    assert min(columns) == 0
    assert min(rows) == 0


def test_looks_and_hits_lie_where_the_camera_looked() -> None:
    at = pose(5.0)
    observation = on_wall().observe(frame(0), at, scores_of(pixel_of(5.1, 2.1, at)))
    assert len(observation.looks) == len(TILES)
    first = observation.looks[0]
    assert first.quad[0] == pytest.approx((5.0 - 0.64, 2.36), abs=2e-3)
    assert first.gsd_mm_px == pytest.approx(1.0, abs=1e-6)
    assert first.viewpoint == pytest.approx((5.0, 2.0, 2.0))
    assert observation.hits
    for hit in observation.hits:
        assert hit.along is not None
        assert hit.p_crack > 0.9
    assert observation.footprint is not None
    assert observation.footprint[2] == pytest.approx((5.64, 1.64), abs=2e-3)


def test_coverage_is_told_once_and_adds_up() -> None:
    inspection = on_wall()
    at = pose(5.0)
    inspection.observe(frame(0), at, scores_of(None))
    (delta,) = inspection.coverage_delta()
    assert inspection.coverage_delta() == []
    (summary,) = inspection.coverage()
    assert len(delta.cells) == summary.seen_cells
    # The frame shows 1.28 m x 0.72 m.
    assert summary.seen_area == pytest.approx(1.28 * 0.72, rel=0.05)
    assert summary.seen_cells + summary.never_cells + summary.unknown_cells == 200 * 80
    assert all(good == 1 and unknown == 0 and log_odds < 0 for _, _, good, unknown, log_odds in delta.cells)


def test_two_runs_give_the_same() -> None:
    runs = []
    for _ in range(2):
        inspection = on_wall()
        seen = sightings(fly(inspection))
        runs.append((seen, inspection.coverage_delta()))
    assert runs[0] == runs[1]


def in_picture(settings: InspectionSettings | None = None) -> Inspection:
    chosen = settings or InspectionSettings()
    return Inspection(chosen, ImageProjector(chosen.image.cell_px))


def test_without_telemetry_places_are_pixels_from_the_lower_left() -> None:
    inspection = in_picture()
    found = sightings([inspection.observe(frame(i), None, scores_of((300.0, 100.0))) for i in range(6)])
    (sighting,) = found
    assert sighting.place.unit == "px"
    assert sighting.place.along == pytest.approx(300.0, abs=56)
    assert sighting.place.height == pytest.approx(620.0, abs=56)
    assert sighting.geo is None
    assert sighting.sigma_m is None
    assert sighting.range_m is None


def test_without_telemetry_the_next_crack_at_the_same_pixel_is_seen_again() -> None:
    inspection = in_picture()
    course = [(300.0, 300.0)] * 6 + [None] * 8 + [(300.0, 300.0)] * 6
    found = sightings([inspection.observe(frame(i), None, scores_of(at)) for i, at in enumerate(course)])
    assert len(found) == 2
    assert found[0].sighting_id != found[1].sighting_id


def test_an_unrelated_photograph_can_be_judged_alone() -> None:
    settings = InspectionSettings(
        confirm_log_odds=1.0, image=ImageSurfaceSettings(min_looks=1, memory=0.0, look_weight=1.0)
    )
    inspection = in_picture(settings)
    assert len(sightings([inspection.observe(frame(0), None, scores_of((300.0, 300.0)))])) == 1


def test_a_frame_without_tiles_is_no_error() -> None:
    observation = on_wall().observe(frame(0), pose(5.0), [])
    assert observation.looks == ()
    assert PICTURE.shape == (720, 1280, 3)
    assert observation.face == WALL.name


def test_a_view_from_so_far_that_cells_mean_nothing_counts_as_not_seen() -> None:
    wall = Face("wall", (2000.0, 0.0, 0.0), math.pi / 2)
    camera = CameraModel.from_settings(CameraMountSettings(focal_px=500.0), 1280, 720)
    projector = WallProjector(camera, [wall], SurfaceSettings(max_range_m=1000.0, cell_m=0.01), VehicleSettings())
    far = replace(pose(0.0), north_m=1900.0)
    observation = Inspection(InspectionSettings(), projector).observe(frame(0), far, scores_of(None))
    assert observation.no_view is not None
    assert observation.no_view.reason == "too_far"


def test_counting_goes_on_after_a_restart() -> None:
    before = on_wall()
    after = Inspection(InspectionSettings(), before._projector, first_sighting_id=17)
    assert [sighting.sighting_id for sighting in sightings(fly(after))] == [17]
