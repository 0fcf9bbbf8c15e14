from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from drone_agent.vision.preprocess import read_image
from tests.training.conftest import texture, write_picture
from training.cli import main
from training.data import audit_figures, omissions, sources
from training.data.audit import audit, write_audit
from training.data.audit_command import AuditSettings, Places
from training.data.baseline import Baseline, fit_threshold, measure_baseline
from training.data.omissions import Omission
from training.data.order import find_series, measure_order
from training.data.scan import DarkTile, crack_widths, darkness, unharmed
from training.data.sources import CRACK, SOURCES, Archive, Item
from training.data.twins import Twin
from training.progress import no_bar

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def damaged(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """METU's layout with a cut-short JPEG, an empty file, an exact copy, a turned one, and a copy in the other class."""
    root = tmp_path_factory.mktemp("damaged")
    shutil.copytree(data_root / "metu-ccic", root / "metu-ccic")
    folder = root / "metu-ccic"
    whole = (folder / "Positive/00003.jpg").read_bytes()
    (folder / "Positive/00200.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "Positive/00201.jpg").write_bytes(b"")
    (folder / "Positive/00202.jpg").write_bytes(whole)
    image = read_image(folder / "Positive/00004.jpg")
    write_picture(folder / "Positive/00203.jpg", np.ascontiguousarray(np.rot90(image)))
    shutil.copy(folder / "Negative/00005.jpg", folder / "Positive/00204.jpg")
    return root


@pytest.fixture(scope="module")
def settings(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> AuditSettings:
    out = tmp_path_factory.mktemp("audit")
    return AuditSettings(data=Places(root=damaged, splits=out / "none"), out=out, samples=8, random_pairs=200)


@pytest.fixture(scope="module")
def written(damaged: Path, settings: AuditSettings) -> Path:
    report = audit(SOURCES["metu-ccic"], Archive.find(damaged, "metu-ccic"), settings, no_bar)
    return write_audit([report], settings.out).parent


def test_broken_files_are_named_and_counted_and_do_not_end_the_audit(written: Path) -> None:
    (found,) = json.loads((written / "audit.json").read_text())["data_sets"]
    broken = {file["path"]: file["reason"] for file in found["broken"]}
    assert set(broken) == {"Positive/00200.jpg", "Positive/00201.jpg"}
    assert "cut short" in broken["Positive/00200.jpg"]
    assert found["photographs"] == 44
    page = (written / "index.html").read_text()
    assert "Positive/00200.jpg" in page
    assert "cut short" in page


def test_twins_are_written_with_their_relation_and_whether_they_cross_the_classes(written: Path) -> None:
    with (written / "twins-metu-ccic.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows["Positive/00202.jpg"]["relation"] == "exact copy"
    assert rows["Positive/00202.jpg"]["relative_to"] == "Positive/00003.jpg"
    assert rows["Positive/00202.jpg"]["sha256"] == rows["Positive/00003.jpg"]["sha256"]
    assert rows["Positive/00203.jpg"]["relation"] == "turned by 90 degrees"
    assert rows["Positive/00100.jpg"]["relation"] == "mirrored left to right"
    crossing = {path for path, row in rows.items() if row["crosses_classes"] == "yes"}
    assert crossing == {"Positive/00204.jpg", "Negative/00005.jpg"}
    assert len(rows) == 8
    (found,) = json.loads((written / "audit.json").read_text())["data_sets"]
    assert found["twins"]["exact_copies"] == 2
    assert found["twins"]["different_pictures"] == 40


def test_all_figures_are_on_the_page(written: Path) -> None:
    page = (written / "index.html").read_text()
    names = ("class-balance.svg", "samples-metu-ccic.png", "darkness-metu-ccic.svg")
    assert all((written / name).stat().st_size > 1000 for name in names)
    assert page.count("<img ") >= len(names)


def test_masks_and_boxes_become_tiles_by_the_rule(data_root: Path, tmp_path: Path) -> None:
    settings = AuditSettings(data=Places(root=data_root, splits=tmp_path), out=tmp_path, samples=4)
    reports = [audit(SOURCES[name], Archive.find(data_root, name), settings, no_bar) for name in ("uav75", "omu-quay")]
    uav75 = reports[0].scan
    # of three columns of squares the crack at x 150-170 is in the first two, the joint alone in the third
    assert sum(tile.cracked for tile in uav75.tiles) == 2 * 3 * 5
    assert sum(not tile.cracked for tile in uav75.tiles) == 3 * 5
    assert uav75.crack_shares == pytest.approx([2 / 512] * 5, rel=0.8)
    assert isinstance(reports[0].baseline, Baseline)
    write_audit(reports, tmp_path)
    assert (tmp_path / "masks-uav75.svg").is_file()


def test_what_masks_leave_out_is_counted_listed_and_drawn(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AuditSettings(data=Places(root=data_root, splits=tmp_path), out=tmp_path, samples=4)
    archive = Archive.find(data_root, "uav75")
    before = audit(SOURCES["uav75"], archive, settings, no_bar)
    found = Omission("uav75", "val/images/DSCval0.jpg", "crack", ((400, 30), (430, 70)))
    elsewhere = Omission("uav75", "val/images/another.jpg", "crack", ((400, 30), (430, 70)))
    monkeypatch.setattr(omissions, "read_omissions", lambda: (found, elsewhere))
    after = audit(SOURCES["uav75"], archive, settings, no_bar)
    page = write_audit([after], tmp_path)
    (told,) = json.loads((tmp_path / "audit.json").read_text())["data_sets"]
    assert told["omissions"] == [{"path": found.path, "seen": "crack", "length_px": 50.0}]
    assert (tmp_path / "omissions-uav75.png").stat().st_size > 1000
    assert found.path in page.read_text()
    assert "another.jpg" not in page.read_text()
    sound = [sum(not tile.cracked for tile in report.scan.tiles) for report in (before, after)]
    assert sound[0] - sound[1] == 1, "one square holds it"


def test_a_broken_mask_is_named(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "uav75", tmp_path / "uav75")
    write_picture(tmp_path / "uav75/val/masks/DSCval0.png", np.zeros((8, 8), np.uint8))
    settings = AuditSettings(data=Places(root=tmp_path, splits=tmp_path), out=tmp_path)
    report = audit(SOURCES["uav75"], Archive.find(tmp_path, "uav75"), settings, no_bar)
    assert [file.path for file in report.scan.broken] == ["val/masks/DSCval0.png"]
    assert len(report.scan.items) == 4


def damaged_jpeg(image: np.ndarray) -> bytes:
    """A JPEG with 200 wrong bytes in the middle that OpenCV decodes all the same."""
    _, encoded = cv2.imencode(".jpg", image)
    for seed in range(50):
        content, rng = bytearray(encoded.tobytes()), np.random.default_rng(seed)
        content[len(content) // 2 : len(content) // 2 + 200] = rng.integers(0, 255, 200).astype(np.uint8).tobytes()
        if cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None:
            return bytes(content)
    raise AssertionError("none can be decoded")


def test_a_jpeg_that_is_damaged_in_the_middle_is_broken_and_a_mask_likewise(data_root: Path, tmp_path: Path) -> None:
    for name in ("metu-ccic", "walls-external"):
        shutil.copytree(data_root / name, tmp_path / name)
    rng = np.random.default_rng(9)
    (tmp_path / "metu-ccic/Positive/00003.jpg").write_bytes(damaged_jpeg(texture(rng, 227)))
    (tmp_path / "walls-external/masks").mkdir()
    (tmp_path / "walls-external/masks/positive.jpg").write_bytes(damaged_jpeg(texture(rng, 448)))
    settings = AuditSettings(data=Places(root=tmp_path, splits=tmp_path), out=tmp_path)
    for name, path in (("metu-ccic", "Positive/00003.jpg"), ("walls-external", "masks/positive.jpg")):
        report = audit(SOURCES[name], Archive.find(tmp_path, name), settings, no_bar)
        (broken,) = report.scan.broken
        assert broken.path == path
        assert "damaged in its middle (libjpeg: Corrupt JPEG data: " in broken.reason


def test_what_else_is_said_while_a_picture_is_read_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        os.write(2, b"second\n")
        raise OSError("no")

    assert unharmed(lambda: os.write(2, b"first\n")) == 6
    with pytest.raises(OSError, match="no"):
        unharmed(fail)
    os.write(2, b"third\n")
    assert capfd.readouterr().err == "first\nsecond\nthird\n"


def test_darkness_is_the_median_less_the_darkest_cell() -> None:
    image = np.full((160, 160, 3), 180, np.uint8)
    image[20:30, 50:60] = 60
    assert darkness(image) == 120


@pytest.mark.parametrize("width", [1, 3, 7])
def test_the_width_of_a_straight_crack_is_measured(width: int) -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[:, 20 : 20 + width] = CRACK
    assert np.median(crack_widths(mask)) == pytest.approx(width, abs=0.1)


@pytest.mark.parametrize("widths", [[1.0] * 50, [1.0] * 45 + [2.0] * 5, [float(px) for px in range(1, 40)], []])
def test_widths_of_cracks_are_several_bars_with_the_legend_beside_them(
    widths: list[float], tmp_path: Path, figures_of: Callable[[ModuleType], list[Any]]
) -> None:
    figures = figures_of(audit_figures)
    audit_figures.draw_masks([0.001, 0.002], widths, tmp_path / "masks.svg")
    right = figures[0].axes[1]
    least, most = right.get_xlim()
    bars = right.patches
    assert len(bars) >= 5
    assert all(bar.get_width() <= (most - least) / 5 for bar in bars)
    assert least <= bars[0].get_x() < bars[-1].get_x() + bars[-1].get_width() <= most
    assert sum(bar.get_height() for bar in bars) >= 0.97 * len(widths)
    if widths:
        assert right.get_legend().get_window_extent().y0 >= max(bar.get_window_extent().y1 for bar in bars)


def test_the_threshold_separates_what_can_be_separated() -> None:
    scores, labels = np.array([1.0, 2.0, 3.0, 8.0, 9.0]), np.array([False, False, False, True, True])
    assert fit_threshold(scores, labels) == 8.0


def test_the_baseline_is_measured_on_what_it_was_not_fitted_on() -> None:
    # in training darkness tells the classes apart, in the test part it is the other way round
    tiles = [DarkTile(i, i % 2 == 0, 50.0 if (i % 2 == 0) == (i < 20) else 5.0) for i in range(40)]
    found = measure_baseline(tiles, [str(i) for i in range(40)], {i: "train" if i < 20 else "test" for i in range(40)})
    assert isinstance(found, Baseline)
    assert (found.accuracy.value, found.auroc, found.recall.total) == (0.0, 0.0, 10)


def test_the_baseline_of_one_class_is_refused_with_a_reason() -> None:
    assert measure_baseline([DarkTile(0, cracked=False, darkness=3.0)], ["a"], None) == (
        "not measured: there is no cracked tile"
    )


def test_files_in_the_order_of_photographs_are_told_from_shuffled_ones() -> None:
    rng = np.random.default_rng(3)
    drift = np.cumsum(rng.normal(0, 1, (400, 4)), axis=0).astype(np.float32)
    coarse = np.stack([texture(rng, 16)[:, :, 0] for _ in range(400)]).astype(np.float32)
    (series,) = find_series([Item(f"Positive/{i:05d}.jpg", label=True, group=str(i)) for i in range(400)])
    options = {"farthest": 300, "random_pairs": 2000, "seed": 1}
    ordered = measure_order(series, coarse, drift, [], **options)
    shuffled = measure_order(series, coarse, rng.permutation(drift), [], **options)
    assert ordered.neighbour_colour > 0.8
    assert ordered.colour_at_lag[0] > 0.8
    assert abs(ordered.random_colour) < 0.1
    assert abs(shuffled.neighbour_colour) < 0.2


@pytest.mark.parametrize("start", [10**19, 10**60])
def test_numbers_of_any_length_are_put_in_order(start: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    drift = np.cumsum(rng.normal(0, 1, (60, 4)), axis=0).astype(np.float32)
    coarse = np.stack([texture(rng, 16)[:, :, 0] for _ in range(60)]).astype(np.float32)
    twins = [Twin(0, 1, 0, 0.99), Twin(0, 59, 0, 0.99)]
    options = {"farthest": 300, "random_pairs": 200, "seed": 1}
    orders = []
    for first in (start, 0):
        numbers = [first + number if number < 40 else 9 * start + number for number in range(60)]
        (series,) = find_series([Item(f"Positive/{n:070d}.jpg", label=True, group=str(n)) for n in numbers])
        assert series.numbers == numbers
        orders.append(measure_order(series, coarse, drift, twins, **options))
    assert orders[0].lags.tolist() == list(range(1, 36)), "pairs on both sides of the gap are too far apart"
    assert np.array_equal(orders[0].colour_at_lag, orders[1].colour_at_lag)
    distance = orders[0].usual_twin_distance()
    assert distance is not None
    assert distance[0] == pytest.approx(8 * start, rel=0.01)
    audit_figures.draw_order(orders, tmp_path / "order.svg")


def test_runs_with_another_pattern_of_names_are_series_of_their_own() -> None:
    names = [f"Positive/{i:05d}.jpg" for i in range(40)] + [f"Positive/1{i:04d}_1.jpg" for i in range(40)]
    found = find_series([Item(name, label=True, group=name) for name in names])
    assert [series.pattern for series in found] == ["Positive/#", "Positive/#_#"]
    assert found[1].numbers == [10000 + i for i in range(40)]


def audited(root: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> int | str | None:
    """Run the command over small data sets; return its exit code."""
    arguments = ["--root", root, "--splits", out / "none", "--out", out]
    monkeypatch.setattr("sys.argv", ["crack-training", "audit", *names, *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


@pytest.fixture
def annotated(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of four sets with something missing, added by configuration, and of a built-in one that is right."""
    root = tmp_path / "data"
    shutil.copytree(data_root / "omu-quay", root / "omu-quay")
    named = {"id": 1, "file_name": "gone.png", "width": 9, "height": 9}
    (root / "finds").mkdir()
    instances = {"images": [named], "annotations": [], "categories": [{"id": 1, "name": "crack"}]}
    (root / "finds/instances.json").write_text(json.dumps(instances))
    write_picture(root / "masked/train_img/a.jpg", np.zeros((9, 9, 3), np.uint8))
    write_picture(root / "boxed/a.jpg", np.zeros((9, 9, 3), np.uint8))
    (root / "empty").mkdir()
    facts = {"role": "train", "licence": "CC0", "citation": "own", "file": "a.zip", "size": "-", "arrange": "-"}
    layouts = {"finds": "coco", "masked": "deepcrack", "boxed": "yolo", "empty": "metu"}
    entries = [facts | {"name": name, "layout": layout} for name, layout in layouts.items()]
    file = tmp_path / "sources.yaml"
    file.write_text(json.dumps({"root": "data", "lock": "lock.json", "datasets": entries}))
    monkeypatch.setattr(sources, "DATASETS_FILE", file)
    return root


def test_a_faulty_set_is_reported_and_does_not_end_the_audit_of_the_others(
    annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert audited(annotated, out, monkeypatch) == 2
    printed = capsys.readouterr().out
    content = json.loads((out / "audit.json").read_text())
    assert [found["name"] for found in content["data_sets"]] == ["omu-quay"]
    reasons = {failed["name"]: failed["reason"] for failed in content["not_audited"]}
    assert "expected is one of gone.png, images/gone.png" in reasons["finds"]
    assert reasons["finds"].count("images/gone.png") == 1
    assert "expected is train_lab/a.png" in reasons["masked"]
    assert "a.jpg has no boxes" in reasons["boxed"]
    assert "no photograph is where the layout expects it" in reasons["empty"]
    page = (out / "index.html").read_text()
    for name, reason in reasons.items():
        assert name in page
        assert reason in page
        assert f"{name}: not audited: {reason}" in printed
    assert "4 of 5 data sets were not audited: finds: " in printed.splitlines()[-1]
    assert "metu-ccic: left out: " in printed, "what is not there at all is no fault"


def test_pictures_that_a_layout_does_not_take_are_counted_with_examples(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for name in ("metu-ccic", "uav75"):
        shutil.copytree(data_root / name, root / name)
    picture = data_root / "metu-ccic/Negative/00000.jpg"
    left = ["Negative/film.GIF", "Negative/photo.jfif", "positive/x.png", "unsure/u.png"]
    for name in (*left, "__MACOSX/Positive/._a.jpg", "readme.txt"):
        (root / "metu-ccic" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, root / "metu-ccic" / name)
    assert audited(root, out, monkeypatch, "metu-ccic", "uav75") == 0
    said = f"4 picture files left out ({', '.join(left[:3])}, ...)"
    metu, uav75 = (line for line in capsys.readouterr().out.splitlines() if " photographs" in line)
    assert said in metu
    assert "left out" not in uav75, "masks are no photographs and in use"
    assert said in (out / "index.html").read_text()
    counts = [found["left_out"] for found in json.loads((out / "audit.json").read_text())["data_sets"]]
    assert counts == [{"files": 4, "examples": left[:3]}, {"files": 0, "examples": []}]


def test_a_set_that_was_asked_for_and_is_not_there_does_not_end_the_audit_of_the_others(
    annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert audited(annotated, out, monkeypatch, "uav75", "omu-quay") == 2
    content = json.loads((out / "audit.json").read_text())
    assert [found["name"] for found in content["data_sets"]] == ["omu-quay"]
    assert [failed["name"] for failed in content["not_audited"]] == ["uav75"]


def test_the_page_is_written_where_every_set_is_faulty(
    annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert audited(annotated, tmp_path / "out", monkeypatch, "empty") == 2
    assert "no photograph is where the layout expects it" in (tmp_path / "out/index.html").read_text()
