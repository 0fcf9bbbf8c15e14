from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.simulation.pier import CRACK, JOINT, Pier, coverage, make_pier

SIZE_M = (1.6, 0.9)


@pytest.fixture(scope="module")
def pier() -> Pier:
    return make_pier(5, *SIZE_M)


@given(width_px=st.floats(0.1, 9.0), turn=st.floats(0.0, np.pi), shift=st.floats(0.0, 1.0))
def test_the_ribbon_covers_length_times_width_at_any_angle_even_below_a_pixel(
    width_px: float, turn: float, shift: float
) -> None:
    centre = np.array([50.0 + shift, 50.0])
    half = 35.0 * np.array([np.cos(turn), np.sin(turn)])
    points = np.array([centre - half, centre, centre + half])
    covered = coverage(points, np.full(3, width_px), (100, 100))
    # Away from the round ends: a window across the middle half, measured along the ribbon.
    ys, xs = np.mgrid[0:100, 0:100] + 0.5
    along = (xs - centre[0]) * np.cos(turn) + (ys - centre[1]) * np.sin(turn)
    weight = np.clip(18.0 - np.abs(along) + 0.5, 0.0, 1.0)
    assert float((covered * weight).sum()) / 36.0 == pytest.approx(width_px, rel=0.04, abs=0.01)


def test_a_ribbon_off_the_picture_covers_nothing() -> None:
    assert coverage(np.array([[-50.0, 3.0], [-20.0, 3.0]]), np.full(2, 4.0), (10, 10)).max() == 0.0


def test_the_same_seed_pours_the_same_pier_and_another_seed_another(pier: Pier) -> None:
    again, other = make_pier(5, *SIZE_M), make_pier(6, *SIZE_M)
    assert np.array_equal(pier.texture, again.texture)
    assert np.array_equal(pier.truth(), again.truth())
    assert not np.array_equal(pier.truth(), other.truth())


def test_cracks_have_their_nominal_width_and_span_the_classes(pier: Pier) -> None:
    for crack in pier.cracks:
        assert len(crack.points) == len(crack.widths_mm)
        assert crack.widths_mm.mean() == pytest.approx(crack.width_mm, rel=0.01)
        steps_mm = 1000.0 * np.linalg.norm(np.diff(crack.points, axis=0), axis=1)
        assert steps_mm == pytest.approx(2.5, abs=0.05)
    trunks = sorted(crack.width_mm for crack in pier.cracks if crack.parent is None)
    assert trunks[0] == 0.3
    assert trunks[-1] == 3.0


def test_branches_start_on_their_parent_and_are_finer(pier: Pier) -> None:
    branches = [crack for crack in pier.cracks if crack.parent is not None]
    assert branches
    for branch in branches:
        assert branch.parent is not None
        parent = pier.cracks[branch.parent]
        assert np.linalg.norm(parent.points - branch.points[0], axis=1).min() < 1e-9
        assert branch.width_mm < 0.5 * parent.width_mm


def test_light_lost_across_a_crack_grows_with_its_width(pier: Pier) -> None:
    grey = cv2.cvtColor(pier.texture, cv2.COLOR_BGR2GRAY).astype(np.float64)
    # Lost light in equivalent millimetres of black, from a median cross-section of 10 mm either side.
    lost: dict[float, float] = {}
    for crack in pier.cracks:
        if crack.parent is not None:
            continue
        body = slice(len(crack.points) // 5, -len(crack.points) // 5)
        inside = np.column_stack([1000.0 * crack.points[body, 0], 1000.0 * (SIZE_M[1] - crack.points[body, 1])])
        tangent = np.gradient(cv2.GaussianBlur(inside, (1, 9), 3.0), axis=0)
        normal = np.column_stack([-tangent[:, 1], tangent[:, 0]]) / np.linalg.norm(tangent, axis=1)[:, None]
        offsets = np.arange(-8.0, 8.0, 0.25)
        xy = (inside[:, None, :] + offsets[None, :, None] * normal[:, None, :]) / pier.mm_px - 0.5
        section = cv2.remap(grey, xy[..., 0].astype(np.float32), xy[..., 1].astype(np.float32), cv2.INTER_LINEAR)
        profile = np.median(section, axis=0)
        base = np.median(profile[np.abs(offsets) > 5.0])
        lost[crack.width_mm] = float(np.clip(1.0 - profile / base, 0.0, None).sum() * 0.25)
    assert lost[3.0] > lost[1.6] > lost[0.8] > 0.0
    # Nearly black inside, so the loss is somewhat below the width; dirt beside the crack adds a little.
    assert 0.5 * 3.0 < lost[3.0] < 1.5 * 3.0
    assert 0.4 * 1.6 < lost[1.6] < 1.6 * 1.6


def test_truth_marks_every_crack_vertex_and_every_joint(pier: Pier) -> None:
    mask = pier.truth(1.0)
    assert mask.shape == (900, 1600)
    assert set(np.unique(mask)) == {0, JOINT, CRACK}
    for crack in pier.cracks:
        cols = np.floor(1000.0 * crack.points[:, 0]).astype(int)
        rows = np.floor(1000.0 * (SIZE_M[1] - crack.points[:, 1])).astype(int)
        inside = (cols >= 0) & (cols < 1600) & (rows >= 0) & (rows < 900)
        assert (mask[rows[inside], cols[inside]] == CRACK).all()
    for joint in pier.joints:
        middle = 0.5 * (np.array(joint.start) + np.array(joint.end))
        assert mask[int(1000.0 * (SIZE_M[1] - middle[1])), int(1000.0 * middle[0])] in {JOINT, CRACK}


def test_truth_widths_grow_with_the_crack(pier: Pier) -> None:
    mask = pier.truth(0.5)
    area_mm2 = 0.25 * float((mask == CRACK).sum())
    # The ends of the widest lie above the section shown.
    expected = sum(
        2.5 * float(np.maximum(crack.widths_mm, 0.5)[(crack.points[:, 1] > 0) & (crack.points[:, 1] < SIZE_M[1])].sum())
        for crack in pier.cracks
    )
    assert area_mm2 == pytest.approx(expected, rel=0.12)


def test_the_surface_has_the_fine_grain_of_concrete(pier: Pier) -> None:
    small = cv2.resize(pier.texture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
    # Drone photographs of bridge concrete at this scale: 3 to 6 grey levels beyond a blur of one pixel.
    sound = grey[pier.truth(1.0) == 0]
    high_pass = (grey - cv2.GaussianBlur(grey, (0, 0), 1.0))[pier.truth(1.0) == 0]
    assert 2.5 < high_pass.std() < 7.0
    assert 100.0 < sound.mean() < 200.0
