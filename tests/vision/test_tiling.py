import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drone_agent.vision.tiling import plan

sides = st.integers(1, 900)


@settings(max_examples=200)
@given(width=sides, height=sides, tile_px=st.integers(20, 500), overlap=st.floats(0, 0.75))
def test_every_pixel_lies_in_a_tile_and_no_tile_outside(width: int, height: int, tile_px: int, overlap: float) -> None:
    covered = np.zeros((height, width), bool)
    tiles = plan(width, height, tile_px, overlap)
    for tile in tiles:
        assert tile.size_px == min(tile_px, width, height)
        assert 0 <= tile.x_px <= width - tile.size_px
        assert 0 <= tile.y_px <= height - tile.size_px
        covered[tile.y_px : tile.y_px + tile.size_px, tile.x_px : tile.x_px + tile.size_px] = True
    assert covered.all()
    assert len(set(tiles)) == len(tiles)
    assert list(tiles) == sorted(tiles, key=lambda tile: (tile.y_px, tile.x_px))


@settings(max_examples=200)
@given(width=sides, tile_px=st.integers(20, 300), overlap=st.floats(0, 0.75))
def test_neighbours_share_what_was_asked(width: int, tile_px: int, overlap: float) -> None:
    size = min(tile_px, width)
    starts = sorted({tile.x_px for tile in plan(width, size, tile_px, overlap)})
    for left, right in itertools.pairwise(starts):
        assert left + size - right >= size * overlap - 1e-6


def test_a_frame_of_720p_has_six_by_four_native_tiles() -> None:
    tiles = plan(1280, 720, 224, 0.0)
    assert len(tiles) == 24
    assert {tile.size_px for tile in tiles} == {224}
    assert max(tile.x_px for tile in tiles) == 1280 - 224
    assert max(tile.y_px for tile in tiles) == 720 - 224


def test_a_frame_that_fits_exactly_has_no_more_tiles_than_it_needs() -> None:
    assert len(plan(448, 224, 224, 0.0)) == 2
    assert len(plan(224, 224, 224, 0.75)) == 1


def test_a_frame_smaller_than_a_tile_gets_smaller_tiles_and_no_padding() -> None:
    assert [(tile.x_px, tile.y_px, tile.size_px) for tile in plan(200, 100, 224, 0.0)] == [(0, 0, 100), (100, 0, 100)]


@pytest.mark.parametrize(
    ("width", "height", "tile_px", "overlap"),
    [(0, 5, 5, 0.0), (5, 0, 5, 0.0), (5, 5, 0, 0.0), (5, 5, 5, 0.76), (5, 5, 5, -0.1)],
)
def test_nonsense_is_refused(width: int, height: int, tile_px: int, overlap: float) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        plan(width, height, tile_px, overlap)
