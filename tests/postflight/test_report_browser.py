"""What a browser makes of the report: nothing on the console, nothing asked of the network, everything drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from drone_agent.postflight.report import write_report
from tests.flightlog.flights import wall_flight

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(wall_flight(tmp_path_factory.mktemp("flights"), name="wall"))


def chromium(profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--v=0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def test_the_page_is_drawn_without_an_error_on_the_console(report: Path, tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    done = chromium(tmp_path / "profile", f"--screenshot={picture}", "--window-size=1200,3000", report.as_uri())
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape[:2] == (3000, 1200)
    # the coverage's darkest blue and the strongest evidence must be on the page
    for red, green, blue, least in ((0x82, 0xAE, 0xCD, 20_000), (0x9C, 0x2F, 0x04, 100)):
        assert (image == (blue, green, red)).all(axis=2).sum() > least


def test_the_filter_is_offered_and_the_script_runs(report: Path, tmp_path: Path) -> None:
    done = chromium(tmp_path / "profile", "--dump-dom", report.as_uri())
    assert '<div class="filters">' in done.stdout
    assert '<div class="filters" hidden' not in done.stdout


def test_it_prints_on_a4(report: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    chromium(tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={target}", report.as_uri())
    content = target.read_bytes()
    boxes = {tuple(round(float(v)) for v in box.split()) for box in re.findall(rb"/MediaBox\s*\[([^\]]+)\]", content)}
    assert boxes == {(0, 0, 595, 842)}
