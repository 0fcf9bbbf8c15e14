from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from drone_agent.vision.preprocess import read_image

pytest.importorskip("torch", reason="needs the [training] extra")

from training.figures import figure

REPOSITORY = Path(__file__).resolve().parents[2]


def write_picture(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Concrete-like: low-frequency blotches and grain, different in every call."""
    blotches = cv2.resize(rng.normal(0, 25, (9, 9, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(150 + blotches + rng.normal(0, 6, (side, side, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the layouts of all data sets, as folders, with pictures of our own."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(7)
    for index in range(20):
        cracked = texture(rng, 227)
        cv2.line(cracked, (int(rng.integers(40, 180)), 0), (int(rng.integers(40, 180)), 226), (30, 30, 30), 6)
        write_picture(root / f"metu-ccic/Positive/{index:05d}.jpg", cracked)
        write_picture(root / f"metu-ccic/Negative/{index:05d}.jpg", texture(rng, 227))
    twin = read_image(root / "metu-ccic/Positive/00000.jpg")
    write_picture(root / "metu-ccic/Positive/00100.jpg", np.ascontiguousarray(twin[:, ::-1]))
    for part, count in (("train", 3), ("val", 2)):
        for index in range(count):
            image, mask = texture(rng, 512), np.zeros((512, 512), np.uint8)
            for value, x, width in ((255, 150, 2), (204, 350, 4)):
                cv2.line(mask, (x, 0), (x + 20, 511), value, width)
            image[mask > 0] //= 3
            write_picture(root / f"uav75/{part}/images/DSC{part}{index}.jpg", image)
            write_picture(root / f"uav75/{part}/masks/DSC{part}{index}.png", mask)
    for site in ("h1", "o6"):
        for index in range(3):
            write_picture(root / f"omu-quay/{site}/MAX_{index:04d}_5_1.jpg", texture(rng, 256))
            (root / f"omu-quay/{site}/MAX_{index:04d}_5_1.txt").write_text("0 0.5 0.5 0.8 0.3\n")
    for index in range(10):
        mask = np.zeros((256, 256), np.uint8)
        cv2.line(mask, (30, 0), (60, 255), 255, 3)
        write_picture(root / f"uavcrack/images/film{index // 2}_{index}_1_00.jpeg", texture(rng, 256))
        write_picture(root / f"uavcrack/masks/film{index // 2}_{index}_1_00.png", mask)
        write_picture(root / f"not-concrete/n{index:04d}_thing.jpg", texture(rng, 300)[:200])
    for name, side in (("walls-external", 448), ("brickwork-external", 227)):
        for label in ("Positive", "Negative"):
            write_picture(root / f"{name}/{label}/{label.lower()}.jpg", texture(rng, side))
    frame, mask = texture(rng, 1920)[:1080], np.zeros((1080, 1920, 3), np.uint8)
    cv2.line(mask, (0, 500), (1919, 560), (0, 0, 255), 3)
    frame[mask.any(axis=2)] //= 3
    write_picture(root / "nha12d/images/slab.jpg", frame)
    write_picture(root / "nha12d/masks/slab.png", mask)
    return root


@pytest.fixture(scope="session")
def splits(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.data.copies import copies_in, open_files
    from training.data.sources import SOURCES
    from training.data.splits import make_split, write_split

    folder = tmp_path_factory.mktemp("splits")
    for source in SOURCES.values():
        if source.role == "train":
            files = open_files(source, data_root)
            write_split(make_split(files, seed=1, twins=copies_in(files)), folder)
    return folder


@pytest.fixture(scope="session")
def cache(splits: Path) -> Path:
    return splits / "cache"


@pytest.fixture
def figures_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], list[Any]]:
    """Return a list that fills with the figures that a module draws from then on."""

    def watch(module: ModuleType) -> list[Any]:
        kept: list[Any] = []

        @contextmanager
        def watched(path: Path, **size: Any) -> Iterator[Any]:
            with figure(path, **size) as made:
                kept.append(made)
                yield made

        monkeypatch.setattr(module, "figure", watched)
        return kept

    return watch
