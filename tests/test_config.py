from __future__ import annotations

from pathlib import Path

import pytest

from drone_agent.config import AgentConfig, find_profile, load_config, parse_overrides
from drone_agent.config_reference import markdown_reference, yaml_reference
from drone_agent.errors import ConfigError

ROOT = Path(__file__).parents[1]
PROFILES = sorted(path.stem for path in (ROOT / "config" / "profiles").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_the_shipped_configuration_holds_the_defaults_of_the_program() -> None:
    config, layers = load_config()
    assert config == AgentConfig()
    assert layers == ["agent.yaml"]


@pytest.mark.parametrize("name", ["pi4", "pi5", "jetson", "sitl", "replay"])
def test_every_promised_profile_loads(name: str) -> None:
    config, layers = load_config(name)
    assert layers[-1].endswith(f"{name}.yaml")
    assert config != AgentConfig(), "a profile that changes nothing is no profile"


@pytest.mark.parametrize("name", PROFILES)
def test_no_profile_lets_paint_out(name: str) -> None:
    config, _ = load_config(name)
    assert not (config.marking.armed and config.marking.paints)


def test_the_committed_references_are_those_of_the_program() -> None:
    hint = "renew with: drone-agent config --reference > config/agent.yaml; drone-agent config --markdown > docs/configuration.md"
    assert (ROOT / "config" / "agent.yaml").read_text() == yaml_reference(), hint
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown_reference(), hint


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    mine = write(tmp_path, "surface:\n  standoff_m: 3.5\nvision:\n  tiling:\n    overlap: 0.5\n")
    config, _ = load_config(None, mine, ["surface.standoff_m=4"])
    assert config.surface.standoff_m == 4.0
    assert config.vision.tiling.overlap == 0.5
    assert config.vision.tiling.max_resample == AgentConfig().vision.tiling.max_resample


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("surface:\n  standoff_m: far\n", ["mine.yaml:2", "surface.standoff_m", "'far'"]),
        ("surface:\n  standoff_m: -1\n", ["mine.yaml:2", "surface.standoff_m", "-1", "greater than"]),
        ("vision:\n  tyling: {}\n", ["mine.yaml:2", "vision.tyling", "unknown key", "tiling"]),
        ("surfaces: {}\n", ["mine.yaml:1", "surfaces", "unknown key", "surface"]),
        ("vision:\n  threads: 1\n  threads: 2\n", ["mine.yaml:3", "vision.threads", "twice", "line 2"]),
        ("vision: [1, 2\n", ["mine.yaml:", "not valid YAML"]),
        ("- 1\n", ["mine.yaml:1", "list", "mapping"]),
        ("marking:\n  budget:\n    open_ms: -5\n", ["mine.yaml:3", "marking.budget.open_ms", "-5"]),
        ("camera:\n  fps: .nan\n", ["mine.yaml:2", "camera.fps"]),
        ("camera: !!python/object/apply:os.system ['true']\n", ["mine.yaml", "not valid YAML"]),
    ],
)
def test_a_mistake_is_named_with_file_line_key_and_what_is_allowed(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, write(tmp_path, text))
    for part in expected:
        assert part in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, write(tmp_path, "surface:\n  standoff_m: -1\ncamera:\n  fps: fast\n"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_and_an_unknown_profile_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_config(None, tmp_path / "nowhere.yaml")
    with pytest.raises(
        ConfigError, match="--profile hovercraft: found no such file, allowed are jetson, pi4, pi5, replay, sitl"
    ):
        find_profile("hovercraft")


@pytest.mark.parametrize("item", ["surface.standoff_m", "=3", "surface..x=1", "a.b=[1"])
def test_an_override_that_is_no_key_and_value_is_refused(item: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_overrides([item])


def test_a_value_in_place_of_a_block_is_answered_with_the_blocks_keys() -> None:
    with pytest.raises(ConfigError, match=r"surface: found 3, allowed is a block with the keys .*standoff_m"):
        load_config(None, None, ["surface=3"])


def test_the_labels_of_the_layers_tell_no_folders_but_whole_overrides(tmp_path: Path) -> None:
    _, layers = load_config(None, write(tmp_path, "{}"), ["vision.model=a/b"])
    assert layers == ["agent.yaml", "mine.yaml", "--set vision.model=a/b"]


def test_a_password_in_an_override_shows_neither_in_a_label_nor_in_a_message() -> None:
    address = "rtsp://user:geheim@10.0.0.1/stream"
    config, layers = load_config(None, None, ["camera.source=rtsp", f"camera.url={address}"])
    assert config.camera.url == address
    assert "geheim" not in " ".join(layers)
    with pytest.raises(ConfigError, match=r"camera\.uri: unknown key") as caught:
        load_config(None, None, [f"camera.uri={address}"])
    assert "geheim" not in str(caught.value)


def test_a_mistake_in_an_override_names_the_override() -> None:
    with pytest.raises(ConfigError, match=r"--set surface\.standoff_m=-2: surface\.standoff_m: found -2"):
        load_config(None, None, ["surface.standoff_m=-2"])


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_loads_and_changes_something(path: Path) -> None:
    config, _ = load_config(None, path)
    assert config != AgentConfig()
