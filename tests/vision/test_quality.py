from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from drone_agent.values import Image, Tile
from drone_agent.vision.quality import TileQuality, assess
from drone_agent.vision.settings import QualityGates, QualitySettings
from drone_agent.vision.tiling import plan

SHARED = Path(__file__).parents[3] / "shared" / "flight" / "wall-01"
DEFAULTS = QualitySettings().gates()


def concrete(
    seed: int = 1, *, contrast: float = 12.0, level: float = 150.0, size: tuple[int, int] = (448, 672)
) -> Image:
    """Grain at all scales (amplitude falls with frequency, as on real surfaces), softened by a lens."""
    height, width = size
    rng = np.random.default_rng(seed)
    grain = np.zeros(size)
    for step in (1, 2, 4, 8, 16, 32):
        coarse = rng.normal(size=(height // step + 1, width // step + 1))
        grain += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * step**0.35
    soft = cv2.GaussianBlur(grain, (0, 0), 0.6)
    grey = level + contrast * soft / soft.std()
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def gaussian(sigma: float) -> Callable[[Image], Image]:
    return lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def motion(length: int, angle: float) -> Callable[[Image], Image]:
    kernel = np.zeros((length, length), np.float32)
    reach = (length - 1) / 2
    dx, dy = np.cos(angle) * reach, np.sin(angle) * reach
    cv2.line(kernel, (round(reach - dx), round(reach - dy)), (round(reach + dx), round(reach + dy)), 1.0)
    return lambda image: np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.uint8)


def noisy(image: Image, sigma: float, seed: int = 3) -> Image:
    return np.clip(image + np.random.default_rng(seed).normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def judged(image: Image, settings: QualityGates = DEFAULTS) -> list[TileQuality]:
    return assess(image, plan(image.shape[1], image.shape[0], 224, 0.0), settings)


def refused_share(images: list[Image], reason: str = "blur") -> float:
    reasons = [quality.reason for image in images for quality in judged(image)]
    return sum(found == reason for found in reasons) / len(reasons)


BLURS = {
    "out of focus": gaussian(3.0),
    "smeared sideways": motion(15, 0.0),
    "smeared upwards": motion(15, np.pi / 2),
    "smeared askew": motion(19, 0.8),
}


@pytest.mark.parametrize("contrast", [2.0, 4.0, 12.0, 30.0])
def test_a_wall_in_focus_is_sharp_however_smooth_it_is(contrast: float) -> None:
    assert {quality.reason for quality in judged(concrete(contrast=contrast))} == {None}


@pytest.mark.parametrize("name", BLURS)
@pytest.mark.parametrize("contrast", [4.0, 30.0])
def test_blur_is_noticed_whatever_the_contrast(name: str, contrast: float) -> None:
    assert {quality.reason for quality in judged(BLURS[name](concrete(contrast=contrast)))} == {"blur"}


def test_sharpness_falls_with_every_step_of_blur() -> None:
    image = concrete()
    steps = [np.median([q.sharpness for q in judged(gaussian(sigma)(image))]) for sigma in (0.6, 1.0, 1.5, 2.0, 3.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 2 * steps[-1]


def test_noise_neither_hides_blur_nor_counts_against_a_sharp_picture() -> None:
    blurred = gaussian(3.0)(concrete(contrast=20.0))
    assert refused_share([noisy(blurred, 4.0)]) > 0.6
    assert refused_share([noisy(concrete(contrast=20.0), 4.0)]) == 0.0


def test_only_the_blurred_part_of_a_frame_is_refused() -> None:
    image = concrete()
    image[:, 336:] = gaussian(4.0)(image)[:, 336:]
    qualities = dict(zip(plan(672, 448, 224, 0.0), judged(image), strict=True))
    assert qualities[Tile(0, 0, 224)].reason is None
    assert qualities[Tile(448, 0, 224)].reason == "blur"


@pytest.mark.parametrize(
    ("level", "reason"), [(0, "dark"), (10, "dark"), (128, "flat"), (248, "bright"), (255, "bright")]
)
def test_an_empty_picture_is_never_good(level: int, reason: str) -> None:
    assert {quality.reason for quality in judged(np.full((300, 300, 3), level, np.uint8))} == {reason}


def test_clipping_of_a_part_counts_by_its_share() -> None:
    image = concrete(size=(224, 224))
    image[:, :120] = 255
    assert judged(image)[0].reason == "bright"
    assert judged(image)[0].bright_share == pytest.approx(120 / 224, abs=0.02)
    image = concrete(size=(224, 224))
    image[:150] = 0
    assert judged(image)[0].reason == "dark"
    assert judged(image)[0].dark_share == pytest.approx(150 / 224, abs=0.02)


def test_a_dark_crack_and_a_white_mark_do_not_spoil_a_tile() -> None:
    image = concrete(size=(224, 224))
    image[:, 100:110] = 0
    image[20:60, 20:60] = 255
    assert judged(image)[0].reason is None


def test_brightness_is_the_mean_level() -> None:
    image = concrete(level=90.0)
    assert judged(image)[0].brightness == pytest.approx(image[:224, :224, 1].mean(), abs=1.0)


@pytest.mark.parametrize("size", [(1, 1), (10, 300), (40, 40), (17, 900), (225, 231), (224, 224)])
def test_frames_of_any_size_are_judged(size: tuple[int, int]) -> None:
    image = concrete(size=size) if min(size) > 16 else np.full((*size, 3), 99, np.uint8)
    for quality in judged(image):
        assert np.isfinite(quality.sharpness)
        assert quality.reason in {None, "flat", "blur"}


def test_no_tiles_no_verdicts() -> None:
    assert assess(concrete(), [], DEFAULTS) == []


def test_a_window_without_opening_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"vision\.quality\.min_brightness: found 200, allowed is less than"):
        QualitySettings(min_brightness=200.0, max_brightness=100.0)


@pytest.fixture(scope="module")
def wall() -> list[Image]:
    """Every 60th frame of the recorded flight."""
    capture = cv2.VideoCapture(str(SHARED / "video.mp4"), cv2.CAP_FFMPEG)
    frames = []
    for index in range(786):
        capture.grab()
        if index % 60 == 0:
            frames.append(np.asarray(capture.retrieve()[1], np.uint8))
    return frames


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded flight is not in ../shared")
def test_the_recorded_flight_is_usable_as_it_is_and_not_when_blurred(wall: list[Image]) -> None:
    reasons = [quality.reason for image in wall for quality in judged(image)]
    assert reasons.count(None) == len(reasons)
    for name, blur in BLURS.items():
        assert refused_share([blur(image) for image in wall]) > 0.95, name
    assert refused_share([(image * 0.05).astype(np.uint8) for image in wall], "dark") == 1.0
    assert refused_share([np.minimum(image + 150.0, 255).astype(np.uint8) for image in wall], "bright") > 0.9
