"""Walls in relief: light falls as it should, masonry is sound, cracks are dark, and all of it repeats."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from training.data import relief, synthetic
from training.data.relief import FINE, Relief, Sun, cloud, concrete, light, masonry, weather
from training.data.sources import CRACK, JOINT

SIDE = 128
OVERCAST = Sun(0.0, 45.0, 0.0, 1.0)


def texture(seed: int = 1, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(110, 160, (side, side, 3), np.uint8)


def wall(height: np.ndarray, value: float = 120.0, mask: np.ndarray | None = None) -> Relief:
    colour = np.full((*height.shape, 3), value, np.float32)
    return Relief(height.astype(np.float32), colour, np.zeros(height.shape, np.uint8) if mask is None else mask)


@pytest.mark.parametrize("sun", [OVERCAST, Sun(1.0, 20.0, 0.8, 0.5), Sun(4.0, 60.0, 0.4, 1.0)])
def test_an_even_wall_comes_out_in_its_own_colours(sun: Sun) -> None:
    image, mask = light(wall(np.zeros((SIDE, SIDE))), sun)
    assert image.shape == (SIDE // FINE, SIDE // FINE, 3)
    assert image == pytest.approx(120, abs=0.5)
    assert not mask.any()


@pytest.mark.parametrize("elevation", [20.0, 40.0])
def test_a_ridge_throws_a_shadow_as_long_as_the_sun_is_low(elevation: float) -> None:
    height = np.zeros((256, 256))
    height[:, 112:124] = 20.0
    image, _ = light(wall(height), Sun(math.pi, elevation, 0.9, 0.5))  # the sun stands at the left
    row = image[64, :, 0]
    shadow = 20.0 / math.tan(math.radians(elevation)) / FINE
    edge = 124 // FINE
    dark = np.flatnonzero(row[edge:] < 60)
    assert dark[-1] + 1 == pytest.approx(shadow, rel=1 / 6)
    assert row[: 112 // FINE - 3].min() > 90  # nothing hides the sun on the side it shines on


def test_what_faces_the_sun_is_brighter_than_what_turns_away() -> None:
    rows = np.mgrid[:256, :256][0]
    height = 4 * np.sin(rows / 12)
    image, _ = light(wall(height, 80.0), Sun(1.5 * math.pi, 45.0, 0.8, 0.5))  # above the picture
    rising = np.gradient(height, axis=0)[FINE // 2 :: FINE, FINE // 2 :: FINE]
    inner = slice(10, -10)
    up, down = rising[inner] > 0.1, rising[inner] < -0.1
    # in a picture y runs down: a face that rises downwards looks up, where the sun is
    assert image[inner, :, 0][up].mean() > image[inner, :, 0][down].mean() + 15


def test_a_groove_is_dark_under_a_covered_sky_and_the_deeper_the_darker() -> None:
    darkest = []
    for depth in (1.0, 4.0, 12.0):
        height = np.zeros((SIDE, SIDE))
        height[60:66] = -depth
        darkest.append(float(light(wall(height), OVERCAST)[0].min()))
    assert 118 > darkest[0] > darkest[1] > darkest[2]
    assert darkest[2] < 60


def test_a_camera_exposes_for_bright_walls() -> None:
    assert light(wall(np.zeros((SIDE, SIDE)), 600.0), OVERCAST)[0] == pytest.approx(relief.BRIGHTEST, abs=0.5)


def test_a_crack_of_one_fine_pixel_keeps_its_pixel_and_half_a_joint_goes() -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[41] = CRACK
    mask[80, 10::4] = JOINT  # a quarter of a pixel
    mask[100:102] = JOINT
    small = light(wall(np.zeros((SIDE, SIDE)), mask=mask), OVERCAST)[1]
    assert (small[20] == CRACK).all()
    assert not small[40].any()
    assert (small[50] == JOINT).all()


@pytest.mark.parametrize("scale", [2.0, 9.0, 60.0, 500.0])
@pytest.mark.parametrize("persistence", [0.2, 1.0])
def test_clouds_have_mean_0_and_deviation_1_at_any_scale(scale: float, persistence: float) -> None:
    field = cloud(200, np.random.default_rng(3), scale, persistence)
    assert field.shape == (200, 200)
    assert field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=1e-3)
    assert field.std() == pytest.approx(1, abs=1e-3)


def test_persistence_makes_a_cloud_rough_and_scale_makes_it_large() -> None:
    def steps(scale: float, persistence: float) -> float:
        return float(np.abs(np.diff(cloud(256, np.random.default_rng(5), scale, persistence), axis=1)).mean())

    assert steps(100, 0.3) < steps(100, 0.6) < steps(100, 1.0)
    assert steps(100, 0.3) < steps(20, 0.3)


def test_masonry_is_never_cracked_and_shows_mortar() -> None:
    shares = []
    for seed in range(25):
        drawn = masonry(texture(seed), np.random.default_rng(seed))
        assert drawn.height.shape == drawn.mask.shape == (FINE * SIDE, FINE * SIDE)
        assert drawn.colour.shape == (FINE * SIDE, FINE * SIDE, 3)
        assert np.isfinite(drawn.height).all()
        assert np.isfinite(drawn.colour).all()
        assert set(np.unique(drawn.mask)) <= {0, JOINT}
        shares.append(float((drawn.mask == JOINT).mean()))
    assert 0.05 < float(np.median(shares)) < 0.5


def test_concrete_is_cracked_only_when_asked() -> None:
    for seed in range(25):
        sound = concrete(texture(seed), np.random.default_rng(seed), cracked=False)
        assert not (sound.mask == CRACK).any()
        assert np.isfinite(sound.height).all()
    shown = [
        (concrete(texture(seed), np.random.default_rng(seed), cracked=True).mask == CRACK).any() for seed in range(25)
    ]
    assert sum(shown) > 20


def test_carved_cracks_are_darker_than_what_lies_beside_them() -> None:
    darker, seen = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image, mask = light(concrete(texture(seed), rng, cracked=True), weather(rng))
        crack = mask == CRACK
        if crack.sum() < 20:
            continue
        beside = (cv2.dilate(crack.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0) & ~crack
        seen += 1
        darker += float(np.median(image[crack])) < float(np.median(image[beside]))
    assert seen > 30
    assert darker > 0.9 * seen


@pytest.mark.parametrize("draw", [masonry, lambda t, rng: concrete(t, rng, cracked=True)])
def test_a_seed_gives_the_same_wall_and_another_seed_another(draw: object) -> None:
    def picture(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        return light(draw(texture(), rng), weather(rng))[0].tobytes()  # type: ignore[operator]

    assert picture(1) == picture(1)
    assert picture(1) != picture(2)


def test_suns_stand_above_mostly_and_some_skies_are_covered() -> None:
    suns = [weather(np.random.default_rng(seed)) for seed in range(400)]
    assert 0.2 < np.mean([sun.share == 0 for sun in suns]) < 0.4
    assert 0.78 < np.mean([math.sin(sun.azimuth_rad) < 0 for sun in suns]) < 0.92
    assert all(12 <= sun.elevation_deg <= 70 for sun in suns)


def test_drawn_pictures_show_relief_and_crack_concrete_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[str] = []

    def even(kind: str) -> object:
        def lay(*_: object, cracked: bool = False) -> Relief:
            laid.append(kind + " cracked" * cracked)
            return wall(np.zeros((512, 512)))

        return lay

    for kind in ("masonry", "concrete"):
        monkeypatch.setattr(synthetic, kind, even(kind))
    ground = texture(2, 256)
    for seed in range(80):
        synthetic.draw(ground, np.random.default_rng(seed), cracked=False, relief=True)
    assert laid.count("masonry") > 8
    assert laid.count("concrete") > 5
    assert len(laid) == laid.count("masonry") + laid.count("concrete")
    laid.clear()
    for seed in range(80):
        drawn = synthetic.draw(ground, np.random.default_rng(seed), cracked=True, relief=True)
        assert (drawn.mask == CRACK).any()
    assert not laid.count("masonry")
    assert laid.count("concrete cracked") > 5
    assert laid.count("concrete") > 5
