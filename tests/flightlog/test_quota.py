from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from drone_agent.flightlog.quota import CleanSampler, SpaceGuard
from drone_agent.flightlog.settings import CleanSampleSettings, FlightLogSettings
from drone_agent.values import Tile


def tiles(count: int) -> list[tuple[int, Tile]]:
    return [(number // 15, Tile(224 * (number % 15), 0, 224)) for number in range(count)]


def drawn(sampler: CleanSampler, count: int) -> list[tuple[int, Tile]]:
    return [entry for entry in tiles(count) if sampler.draw(*entry) is not None]


def test_the_same_session_draws_the_same_tiles_and_another_does_not() -> None:
    settings = CleanSampleSettings(rate=0.05, batch=50, max_images=1000)
    first = drawn(CleanSampler(settings, "flight-0001"), 3000)
    assert first == drawn(CleanSampler(settings, "flight-0001"), 3000)
    assert first != drawn(CleanSampler(settings, "flight-0002"), 3000)


def test_the_share_is_the_rate() -> None:
    settings = CleanSampleSettings(rate=0.02, batch=10_000, max_images=10_000)
    # 30,000 tiles at 2 %: 600 with a standard deviation of 24
    assert abs(len(drawn(CleanSampler(settings, "s"), 30_000)) - 600) < 5 * 24


def test_the_rate_halves_after_each_batch_and_is_told() -> None:
    sampler = CleanSampler(CleanSampleSettings(rate=1.0, batch=4, max_images=100), "s")
    rates = [rate for entry in tiles(200) if (rate := sampler.draw(*entry)) is not None]
    assert rates[:4] == [1.0] * 4
    assert rates[4:8] == [0.5] * 4
    assert rates[8:12] == [0.25] * 4


def test_weights_by_the_rate_estimate_the_number_of_tiles_without_bias() -> None:
    estimates = []
    for seed in range(60):
        sampler = CleanSampler(CleanSampleSettings(rate=0.2, batch=20, max_images=1000), f"s{seed}")
        estimates.append(sum(1 / rate for entry in tiles(2000) if (rate := sampler.draw(*entry)) is not None))
    assert sum(estimates) / len(estimates) == pytest.approx(2000, rel=0.08)


@given(rate=st.floats(0, 1), maximum=st.integers(0, 30), count=st.integers(0, 300))
def test_never_more_than_the_quota(rate: float, maximum: int, count: int) -> None:
    settings = CleanSampleSettings(rate=rate, batch=max(1, min(5, maximum)), max_images=maximum)
    sampler = CleanSampler(settings, "s")
    assert len(drawn(sampler, count)) == sampler.kept <= maximum


def test_a_batch_larger_than_the_quota_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not exceed max_images"):
        CleanSampleSettings(batch=500, max_images=100)


@pytest.mark.parametrize("values", [{"segment_mb": 0}, {"fsync": "often"}, {"jpeg_quality": 20}, {"colour": "red"}])
def test_nonsense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FlightLogSettings.model_validate(values)


def test_samples_give_way_before_findings() -> None:
    free = 70_000_000
    guard = SpaceGuard(Path(), 100.0, lambda _folder: free)
    assert guard.refuses(clean=True) == "70 MB free, 100 MB are kept for the events"
    assert guard.refuses(clean=False) is None


def test_without_a_reserve_nothing_is_refused() -> None:
    assert SpaceGuard(Path(), 0.0, lambda _folder: 0).refuses(clean=True) is None


def test_the_file_system_is_asked_for_the_folder_it_is_about(tmp_path: Path) -> None:
    assert SpaceGuard(tmp_path, 0.001).refuses(clean=False) is None
    assert SpaceGuard(tmp_path, 1e9).refuses(clean=False) is not None
