from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from drone_agent.errors import InputError
from drone_agent.values import Image, Tile
from drone_agent.vision.preprocess import crop, read_image, to_tile


def picture(height: int = 48, width: int = 64, seed: int = 1) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, ending: str = ".png") -> bytes:
    good, data = cv2.imencode(ending, image)
    assert good
    return data.tobytes()


def test_a_lossless_file_comes_back_as_it_was(tmp_path: Path) -> None:
    image = picture()
    path = tmp_path / "a.png"
    path.write_bytes(encoded(image))
    assert np.array_equal(read_image(path), image)
    assert np.array_equal(read_image(path.read_bytes()), image)


def test_greyscale_becomes_three_equal_channels() -> None:
    grey = picture()[:, :, 0]
    image = read_image(encoded(grey))
    assert image.shape == (48, 64, 3)
    assert all(np.array_equal(image[:, :, channel], grey) for channel in range(3))


def test_alpha_is_dropped() -> None:
    image = picture()
    with_alpha = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    assert np.array_equal(read_image(encoded(with_alpha)), image)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_is_scaled_to_eight(ending: str, channels: int) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (40, 50, channels), dtype=np.uint16)
    image = read_image(encoded(deep, ending))
    assert image.dtype == np.uint8
    assert image.shape == (40, 50, 3)
    assert np.abs(image.astype(int) - (deep >> 8)).max() <= 1


def test_a_photograph_comes_upright(tmp_path: Path) -> None:
    rgb = np.zeros((40, 80, 3), np.uint8)
    rgb[:, :40] = 255
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise for viewing
    path = tmp_path / "a.jpg"
    PillowImage.fromarray(rgb).save(path, exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == (80, 40, 3)
    assert image[:35].min() > 200
    assert image[45:].max() < 50


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "empty (0 bytes)"),
        (b"\xff", "not a picture that can be decoded (1 bytes)"),
        (b"\xff\xd8\xff", "cut short"),
        (b"this is a text", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "cut short"),
    ],
)
def test_what_is_no_picture_is_refused_with_path_and_reason(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(contents)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jpg", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_image(path)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_picture_that_is_cut_short_is_refused_not_filled_with_grey(ending: str, share: float) -> None:
    data = encoded(picture(200, 200), ending)
    with pytest.raises(InputError):
        read_image(data[: int(len(data) * share)])


def test_the_end_mark_of_a_thumbnail_does_not_hide_that_the_picture_is_cut_short() -> None:
    thumbnail = b"Exif\0\0" + encoded(picture(16, 16), ".jpg")
    whole = encoded(picture(200, 200), ".jpg")
    data = whole[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + whole[2:]
    assert read_image(data).shape == (200, 200, 3)
    with pytest.raises(InputError, match="cut short"):
        read_image(data[:-100])


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm() -> None:
    assert read_image(encoded(picture(), ".jpg") + b"trailer of a telephone" * 100).shape == (48, 64, 3)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_an_input_error(data: bytes) -> None:
    for contents in (data, b"\xff\xd8\xff" + data, b"\x89PNG\r\n\x1a\n" + data):
        try:
            image = read_image(contents)
        except InputError:
            continue
        assert image.ndim == 3


@pytest.mark.parametrize(
    ("height", "width"), [(227, 227), (224, 224), (448, 448), (100, 100), (1, 1), (60, 500), (500, 60)]
)
def test_a_tile_is_square_whatever_the_picture(height: int, width: int) -> None:
    tile = to_tile(picture(height, width))
    assert tile.shape == (224, 224, 3)
    assert tile.dtype == np.uint8


def test_shrinking_averages_areas() -> None:
    image = picture(448, 448)
    blocks = image.reshape(224, 2, 224, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(to_tile(image) - blocks).max() <= 0.51


def test_a_fine_crack_fades_when_shrunk_but_does_not_vanish() -> None:
    image = np.full((896, 896, 3), 200, np.uint8)
    image[:, 451] = 0
    assert to_tile(image)[:, 112].mean() == pytest.approx(150, abs=1)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    image = picture(224, 224)
    assert to_tile(image) is image


def test_four_channels_stay_four() -> None:
    assert to_tile(np.zeros((300, 300, 4), np.uint8)).shape == (224, 224, 4)


def test_a_crop_is_a_view_of_its_place() -> None:
    image = picture(100, 100)
    part = crop(image, Tile(10, 20, 30))
    assert np.array_equal(part, image[20:50, 10:40])
    assert part.base is image


@pytest.mark.parametrize("tile", [Tile(-1, 0, 10), Tile(0, 0, 101), Tile(95, 0, 10), Tile(0, 95, 10), Tile(0, 0, 0)])
def test_a_crop_outside_the_picture_is_refused(tile: Tile) -> None:
    with pytest.raises(ValueError, match="does not lie inside a picture of 100x100"):
        crop(picture(100, 100), tile)
