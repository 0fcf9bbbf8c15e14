"""Where do the files live that travel with the package: configuration, profiles and models?"""

from __future__ import annotations

from pathlib import Path

from drone_agent.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def config_dir() -> Path:
    """The folder with `agent.yaml` and `profiles/`: beside the package in a checkout, inside it once installed.

    Raises:
        ConfigError: neither place has it (a damaged installation).
    """
    return _find("config")


def models_dir() -> Path:
    """The folder with one sub-folder for each shipped model; found as `config_dir` is.

    Raises:
        ConfigError: neither place has it (a damaged installation).
    """
    return _find("exported_models")


def model_names() -> tuple[str, ...]:
    """The names of the shipped models, sorted; empty where there are none."""
    try:
        folder = models_dir()
    except ConfigError:
        return ()
    return tuple(sorted(path.parent.name for path in folder.glob("*/manifest.json")))


def _find(name: str) -> Path:
    # The wheel carries them inside the package; an editable installation leaves them at the root of the checkout.
    places = (_PACKAGE / "_shipped" / name, _PACKAGE.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise ConfigError(f"{name}/ was not found, looked in {' and '.join(map(str, places))}: install the package again")
