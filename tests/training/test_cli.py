from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import REPOSITORY
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
    assert "metu-ccic" in (results / "shares.html").read_text()
    assert "metu-ccic: searching twins" in done.stdout


def test_errors_are_one_line_with_exit_code_two(tmp_path: Path) -> None:
    done = crack_training("train", tmp_path / "absent.yaml")
    assert done.returncode == 2
    assert "absent.yaml" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


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
