from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test depends on how fast a machine is, and Hypothesis measures by the wall clock unless told not to.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# Nothing in there can even be imported without torch, and what flies is tested without it.
collect_ignore = [] if importlib.util.find_spec("torch") else ["training"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden logs anew instead of comparing with them"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs torch by its folder, and skips with a reason what needs the real data where they are absent."""
    for item in items:
        if (ROOT / "tests" / "training") in item.path.parents:
            item.add_marker(pytest.mark.training)
        if item.get_closest_marker("shared") and not (SHARED / "data").is_dir():
            item.add_marker(pytest.mark.skip(reason=f"the real photographs and flights are not at {SHARED}"))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED
