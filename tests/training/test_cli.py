from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.training.conftest import REPOSITORY
from training import cli
from training.config import ConfigError, TrainConfig, read_settings
from training.data.audit_command import AuditSettings
from training.engine.memory import SETTINGS

pytestmark = pytest.mark.training


def crack_training(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | environment, timeout=120, check=False
    )


def test_split_writes_a_file_for_each_source_and_draws_the_shares(data_root: Path, tmp_path: Path) -> None:
    out, results = tmp_path / "out", tmp_path / "results"
    done = crack_training("split", "--root", data_root, "--out", out, "--results", results)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in out.iterdir()}
    assert names == {
        "metu-ccic.csv", "uav75.csv", "omu-quay.csv", "uavcrack.csv", "not-concrete.csv", "INDEX.sha256",
    }  # fmt: skip
    shares = {(row["source"], row["label"]): row for row in json.loads((results / "shares.json").read_text())}
    assert shares["uav75", "mask"] == {"source": "uav75", "label": "mask", "train": 3, "val": 2, "test": 0}
    assert sum(shares["metu-ccic", "crack"][part] for part in ("train", "val", "test")) == 21
    assert "<svg" in (results / "shares.svg").read_text()
    page = (results / "shares.html").read_text()
    assert "metu-ccic" in page
    assert "keeps them. Without a test part: omu-quay, uav75." in page
    assert "metu-ccic: searching twins" in done.stdout


def test_errors_are_one_line_with_exit_code_two(tmp_path: Path) -> None:
    done = crack_training("train", tmp_path / "absent.yaml")
    assert done.returncode == 2
    assert "absent.yaml" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_help_and_the_list_of_sources_come_without_torch() -> None:
    script = (
        "import sys; from training.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'torchvision', 'onnxruntime', 'matplotlib'} & set(sys.modules)))"
    )
    for arguments, what in ((["--help"], "models"), (["sources", "--help"], "list"), (["sources", "list"], "uav75")):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=REPOSITORY, check=False
        )
        assert done.returncode == 0, done.stderr
        assert what in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("installed", [True, False])
def test_a_command_is_there_if_what_it_needs_is_installed(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "torch" and not installed else find(name)
    )
    app = typer.Typer()
    monkeypatch.setattr(cli, "app", app)
    cli._register_further_commands()
    names = {command.name for command in app.registered_commands}
    assert ("models" in names) is installed
    assert {"train", "split"} <= names


def told(*arguments: str | Path) -> str:
    """The one line that a failed command ends with."""
    done = crack_training(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout.rstrip("\n").splitlines()[-1]


def test_a_configuration_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes("name: brücke\n".encode("latin-1"))
    assert told("train", path) == f"error: {path}: byte 8 is not UTF-8; save the file in UTF-8"


def test_a_folder_that_cannot_be_written_is_named_before_the_work(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = told("audit", "uav75", "--root", data_root, "--out", tmp_path / "file/out")
    assert said.startswith(f"error: {tmp_path / 'file/out'}: Not a directory")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"pretrained": "no/such.pth"}, "model.options.pretrained: no/such.pth: ImageNet weights not found"),
        ({"dropuot": 0.1}, "options.dropuot of model 'mobilenetv2': unknown (is 'dropout' meant?); allowed: dropout,"),
        ({"dropout": 7}, "model: "),
    ],
)
def test_a_wrong_option_of_the_model_is_named_with_the_file(
    options: dict[str, object], what: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    stage = {"name": "only", "px": 64, "steps": 1, "warmup": 0, "batch": 2, "lr": 0.1, "sources": {"uav75": 1}}
    content = {"name": "run", "model": {"name": "mobilenetv2", "options": options}, "stages": [stage]}
    path.write_text(json.dumps(content))
    said = told("train", path, "--runs", tmp_path)
    assert said.startswith(f"error: {path}: model")
    assert what in said


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"samplez": 3}, "samplez: unknown (is 'samples' meant?); allowed: data, sets, out, samples, "),
        ({"data": {"rooot": "x"}}, "data.rooot: unknown (is 'root' meant?); allowed: root, splits"),
        ({"zzz": 3}, "zzz: unknown; allowed: data, "),
    ],
)
def test_an_unknown_key_is_named_with_those_that_are_allowed(
    change: dict[str, object], what: str, tmp_path: Path
) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(json.dumps(change))
    with pytest.raises(ConfigError, match=re.escape(f"audit.yaml: {what}")):
        read_settings(path, AuditSettings)


def test_a_key_within_a_list_is_named_with_those_of_its_block(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({"name": "a", "model": {"name": "opnet"}, "stages": [{"name": "b", "stepz": 1}]}))
    with pytest.raises(
        ConfigError, match=r"stages\.0\.stepz: unknown \(is 'steps' meant\?\); allowed: name, px, steps"
    ):
        read_settings(path, TrainConfig)


def test_the_allocator_is_set_before_the_process_starts_over() -> None:
    script = (
        "import os, sys; from training.engine import memory; sys.platform = 'linux';"
        "os.execve = lambda program, arguments, environment: print(environment['MALLOC_MMAP_MAX_'], arguments[1:3]);"
        "memory.keep_freed_memory()"
    )
    bare = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    run = [sys.executable, "-c", script]
    first = subprocess.run(run, capture_output=True, text=True, env=bare, check=True)
    assert first.stdout.strip() == "0 ['-m', 'training']"
    assert "torch" not in first.stderr
    second = subprocess.run(run, capture_output=True, text=True, env=bare | SETTINGS, check=True)
    assert second.stdout == ""
