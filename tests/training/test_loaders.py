from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import write_picture
from training.data.loaders import LAYOUTS
from training.data.sources import BOX, CRACK, Archive
from training.errors import DataError

pytestmark = pytest.mark.training
GREY = np.full((64, 64, 3), 150, np.uint8)


def test_sdnet_pieces_of_a_photograph_stay_together(tmp_path: Path) -> None:
    for name in ("D/CD/7001-1.jpg", "D/UD/7001-2.jpg"):
        write_picture(tmp_path / name, GREY)
    items = LAYOUTS["sdnet2018"].items(Archive(tmp_path), {})
    assert [item.label for item in items] == [True, False]
    assert {item.group for item in items} == {"D/7001"}


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "train_img/a.jpg", GREY)
    with pytest.raises(DataError, match="train_lab/a.png"):
        LAYOUTS["deepcrack"].items(Archive(tmp_path), {})


def test_a_box_is_filled_and_a_corrupt_line_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", GREY)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    layout, archive = LAYOUTS["yolo"], Archive(tmp_path)
    (item,) = layout.items(archive, {})
    assert layout.mask is not None
    assert (layout.mask(archive, item, 64, 64) == BOX).sum() == 32 * 32
    (tmp_path / "a.txt").write_text("0 0.5 oops\n")
    with pytest.raises(DataError, match="line 1"):
        layout.mask(archive, item, 64, 64)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", GREY)
    write_picture(tmp_path / "a.png", np.full((64, 64), CRACK, np.uint8))
    layout, archive = LAYOUTS["same-stem"], Archive(tmp_path)
    (item,) = layout.items(archive, {})
    assert layout.mask is not None
    assert (layout.mask(archive, item, 64, 64) == CRACK).all()
    with pytest.raises(DataError, match="a.png"):
        layout.mask(archive, item, 32, 32)
