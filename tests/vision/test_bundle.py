import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from drone_agent import resources
from drone_agent.errors import ConfigError, ModelRejected
from drone_agent.vision.bundle import load_bundle
from tests.vision.bundles import file_entry, make_bundle


def edit_manifest(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def refusal(what: Path | str, **options: Any) -> str:
    with pytest.raises(ModelRejected) as caught:
        load_bundle(what, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_sound_bundle_says_what_it_is(tmp_path: Path) -> None:
    bundle = load_bundle(
        make_bundle(tmp_path / "b", channels=4, threshold_p=0.7, temperature=1.5, bias=-0.25, gsd=(1.0, 0.5, 2.0))
    )
    assert bundle.name == "darkness"
    assert (bundle.file, bundle.channels, bundle.tile_px) == ("fp32", 4, 224)
    assert (bundle.threshold_p, bundle.temperature, bundle.bias) == (0.7, 1.5, -0.25)
    assert (bundle.gsd.min, bundle.gsd.nominal, bundle.gsd.max) == (0.5, 1.0, 2.0)
    assert bundle.model_path == tmp_path / "b" / "model.onnx"
    assert bundle.sha256 == file_entry(bundle.model_path, 4)["sha256"]
    assert bundle.manifest.metrics["made-up"]["n_positive"] == 3


def test_gates_are_optional_and_read_as_they_stand(tmp_path: Path) -> None:
    assert load_bundle(make_bundle(tmp_path / "old")).quality is None
    gates = {"min_sharpness": 0.31, "max_brightness": 213.0, "max_smear_px": 5.1, "basis": "measured"}
    quality = load_bundle(make_bundle(tmp_path / "new", manifest={"quality": gates})).quality
    assert quality is not None
    assert quality.model_dump(exclude_none=True) == gates
    assert quality.min_brightness is None


def test_a_bundle_is_found_by_folder_manifest_and_file(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    for path in (folder, str(folder), folder / "manifest.json", folder / "model.onnx"):
        assert load_bundle(path).folder == folder


def test_the_wanted_file_is_taken(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    other = make_bundle(tmp_path / "other", channels=4)
    shutil.copy(other / "model.onnx", folder / "model.int8.onnx")
    files = {
        "fp32": file_entry(folder / "model.onnx", 3),
        "int8": file_entry(folder / "model.int8.onnx", 4) | {"scheme": "made up"},
    }
    edit_manifest(folder, {"files": files, "default_file": "int8"})
    assert load_bundle(folder).file == "int8"
    assert load_bundle(folder).channels == 4
    assert load_bundle(folder, file="fp32").channels == 3
    assert load_bundle(folder / "model.onnx").file == "fp32"
    assert "found no file 'fp16', allowed are fp32, int8" in refusal(folder, file="fp16")


def test_a_shipped_bundle_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "darkness")
    (tmp_path / "unfinished").mkdir()
    monkeypatch.setattr(resources, "models_dir", lambda: tmp_path)
    assert load_bundle("darkness").folder == tmp_path / "darkness"
    message = refusal("lightness")
    assert "model lightness: no such folder or file, and no such name" in message
    assert "(there: darkness)" in message


def test_a_path_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "shipped" / "darkness")
    make_bundle(tmp_path / "here" / "darkness")
    monkeypatch.setattr(resources, "models_dir", lambda: tmp_path / "shipped")
    monkeypatch.chdir(tmp_path / "here")
    assert load_bundle("darkness").folder == Path("darkness")


def test_an_installation_without_models_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise ConfigError("no models")

    monkeypatch.setattr(resources, "models_dir", nowhere)
    assert "(there: none)" in refusal("opnet")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert str(tmp_path / "b" / "manifest.json") in refusal(tmp_path / "b")


def test_any_other_file_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"x")
    assert "not a model bundle" in refusal(path)


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, contents: bytes) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "manifest.json").write_bytes(contents)
    assert str(folder / "manifest.json") in refusal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2, "novelty": 1}, "schema: found 2, this agent reads 1: update the agent (and 1 more)"),
        ({"schema": 0}, "schema: found 0, this agent reads 1: export the model again"),
        ({"novelty": 1}, "novelty: Extra inputs are not permitted"),
        ({"input": None}, "input: Field required"),
        (
            {"input": {"name": "tiles", "dtype": "float32", "layout": "NHWC", "order": "BGR", "tile_px": 224}},
            "input.dtype: Input should be 'uint8'",
        ),
        ({"default_file": "int8"}, "default_file: found 'int8', allowed are fp32"),
        ({"gsd_mm_px": {"nominal": 3.0, "min": 1.0, "max": 2.0}}, "gsd_mm_px: found min 1.0, nominal 3.0, max 2.0"),
        ({"quality": {"min_sharpness": -1.0}}, "quality.min_sharpness: Input should be greater than or equal to 0"),
        ({"quality": {"sharpness": 0.3}}, "quality.sharpness: Extra inputs are not permitted"),
        (
            {"quality": {"min_brightness": 200.0, "max_brightness": 100.0}},
            "quality: found min_brightness 200, allowed is less than max_brightness (100)",
        ),
        (
            {"operating_point": {"threshold_p": 1.5, "temperature": 1.0, "bias": 0.0}},
            "operating_point.threshold_p: Input should be less than 1",
        ),
        (
            {"files": {"fp32": {"path": "../model.onnx", "sha256": "0" * 64, "channels": 3, "bytes": 1}}},
            "files.fp32.path: String should match pattern",
        ),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    found = refusal(make_bundle(tmp_path / "b", manifest=change))
    assert found.startswith(f"{tmp_path / 'b' / 'manifest.json'}: ")
    assert message in found


def test_a_changed_file_is_refused_by_its_hash(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'model.onnx'}: wrong hash, found sha256 ")
    assert "expected" in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "model.onnx").unlink()
    assert f"{folder / 'model.onnx'}: cannot be read" in refusal(folder)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_file_that_was_cut_short_before_it_was_hashed_is_refused(tmp_path: Path, share: float) -> None:
    folder = make_bundle(tmp_path / "b")
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[: max(1, int(path.stat().st_size * share))])
    edit_manifest(folder, {"files": {"fp32": file_entry(path, 3)}})
    assert str(path) in refusal(folder)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"input_name": "pictures"}, "inputs found pictures, expected tiles alone"),
        ({"input_type": TensorProto.FLOAT}, "input tiles found tensor(float), expected tensor(uint8)"),
        ({"batch": 1}, "found shape [1, 224, 224, 3], expected [N, 224, 224, 3] with a free N"),
        ({"outputs": ("logit",)}, "outputs found logit, expected cells among them"),
        ({"outputs": ("cells",)}, "outputs found cells, expected logit among them"),
        ({"metadata": {"crackscout.threshold_p": None}}, "metadata crackscout.threshold_p is missing"),
        ({"metadata": {"crackscout.threshold_p": "0.4"}}, "metadata crackscout.threshold_p found 0.4, expected 0.5"),
        ({"metadata": {"crackscout.name": "other"}}, "metadata crackscout.name found other, expected darkness"),
        ({"metadata": {"crackscout.bias": "none"}}, "metadata crackscout.bias found none, expected 0.0"),
        ({"metadata": {"crackscout.schema": "2"}}, "metadata crackscout.schema found 2, expected 1"),
        ({"manifest": {"files": None}}, "files: Field required"),
    ],
)
def test_a_model_that_is_not_what_its_manifest_says_is_refused(
    tmp_path: Path, spoiled: dict[str, Any], message: str
) -> None:
    assert message in refusal(make_bundle(tmp_path / "b", **spoiled))


def test_other_channels_than_promised_are_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", channels=4)
    edit_manifest(folder, {"files": {"fp32": file_entry(folder / "model.onnx", 3)}})
    assert "found shape ['N', 224, 224, 4], expected [N, 224, 224, 3]" in refusal(folder)
