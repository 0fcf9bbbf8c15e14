from pathlib import Path

import pytest

from drone_agent import resources
from drone_agent.errors import ConfigError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site" / "drone_agent"
    folder.mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", folder)
    return folder


def test_a_checkout_has_the_files_beside_the_package(package: Path) -> None:
    (package.parent / "config").mkdir()
    (package.parent / "exported_models" / "opnet").mkdir(parents=True)
    (package.parent / "exported_models" / "opnet" / "manifest.json").write_text("{}")
    (package.parent / "exported_models" / "draft").mkdir()
    assert resources.config_dir() == package.parent / "config"
    assert resources.models_dir() == package.parent / "exported_models"
    assert resources.model_names() == ("opnet",)


def test_an_installed_package_carries_them_inside(package: Path) -> None:
    (package.parent / "config").mkdir()
    (package / "_shipped" / "config").mkdir(parents=True)
    assert resources.config_dir() == package / "_shipped" / "config"


def test_a_damaged_installation_says_where_it_looked(package: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resources.models_dir()
    assert str(package / "_shipped" / "exported_models") in str(caught.value)
    assert resources.model_names() == ()
