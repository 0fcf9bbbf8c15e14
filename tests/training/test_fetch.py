from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.data.fetch import fetch
from training.errors import DataError

pytestmark = pytest.mark.training

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.editions: list[str | None] = []
        self.cuts = 0
        self.headers = {"ETag": '"first"'}
        self.heeds_if_range = True
        self.says_size = True

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if self.path == "/absent":
            self.send_error(404)
            return
        self.server.editions.append(self.headers.get("If-Range"))
        content = CONTENT[::-1] if self.path == "/wrong" else CONTENT
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.path != "/ignores" else 0
        if self.server.heeds_if_range and self.headers.get("If-Range") not in {None, *self.server.headers.values()}:
            start = 0
        if start >= len(content):
            self.send_response(416)
            if self.server.says_size:
                self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        for key, value in self.server.headers.items():
            self.send_header(key, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.server.cuts:
            self.server.cuts -= 1
            end = start + 300_000
        self.wfile.write(content[start:end])

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def begun(folder: Path, content: bytes, edition: str = '"first"') -> None:
    """What a process that was ended leaves."""
    (folder / "file.part").write_bytes(content)
    (folder / "file.edition.part").write_text(edition)


def test_a_cut_download_is_continued_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    assert fetch(server.url("file"), tmp_path / "file", expected=SHA256, pause_s=0.01) == SHA256
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=600000-"]
    assert server.editions == [None, '"first"', '"first"']
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_server_that_ignores_range_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    begun(tmp_path, CONTENT[:1000])
    fetch(server.url("ignores"), tmp_path / "file", expected=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    begun(tmp_path, CONTENT + b"more")
    fetch(server.url("file"), tmp_path / "file", expected=SHA256, pause_s=0.01)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_process_that_ended_after_the_last_byte_has_nothing_to_fetch_again(server: Server, tmp_path: Path) -> None:
    begun(tmp_path, CONTENT)
    assert fetch(server.url("file"), tmp_path / "file", expected=None, pause_s=0.01) == SHA256
    assert server.ranges == [f"bytes={len(CONTENT)}-"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_refused_range_without_a_size_does_not_make_a_part_whole(server: Server, tmp_path: Path) -> None:
    server.says_size = False
    begun(tmp_path, CONTENT)
    fetch(server.url("file"), tmp_path / "file", expected=SHA256, pause_s=0.01)
    assert server.ranges == [f"bytes={len(CONTENT)}-", None]


@pytest.mark.parametrize("heeds", [True, False])
def test_the_part_of_an_older_edition_is_never_continued(server: Server, tmp_path: Path, heeds: bool) -> None:
    server.heeds_if_range = heeds
    begun(tmp_path, b"old" * 1000, edition='"older"')
    assert fetch(server.url("file"), tmp_path / "file", expected=None, pause_s=0.01) == SHA256
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.editions[0] == '"older"'


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"first"'}])
def test_a_part_whose_edition_nobody_named_is_begun_anew(
    headers: dict[str, str], server: Server, tmp_path: Path
) -> None:
    server.headers, server.cuts = headers, 1
    assert fetch(server.url("file"), tmp_path / "file", expected=None, pause_s=0.01) == SHA256
    assert server.ranges == [None, None]
    (tmp_path / "other.part").write_bytes(b"old" * 1000)
    assert fetch(server.url("file"), tmp_path / "other", expected=None, pause_s=0.01) == SHA256


def test_the_time_of_the_last_change_stands_for_a_missing_etag(server: Server, tmp_path: Path) -> None:
    server.headers, server.cuts = {"Last-Modified": "Wed, 01 Apr 2020 10:00:00 GMT"}, 1
    assert fetch(server.url("file"), tmp_path / "file", expected=None, pause_s=0.01) == SHA256
    assert server.editions == [None, "Wed, 01 Apr 2020 10:00:00 GMT"]
    assert server.ranges == [None, "bytes=300000-"]


def test_a_wrong_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sha256 is "):
        fetch(server.url("wrong"), tmp_path / "file", expected=SHA256)
    assert list(tmp_path.iterdir()) == []


def test_md5_is_compared_where_only_that_is_published(server: Server, tmp_path: Path) -> None:
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert fetch(server.url("file"), tmp_path / "file", expected=md5, algorithm="md5") == SHA256


def test_a_missing_file_is_reported_at_once_with_its_status(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        fetch(server.url("absent"), tmp_path / "file", expected=None)
    assert len(server.ranges) == 1


def test_a_connection_that_is_always_cut_names_the_sizes_and_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.cuts = 99
    (tmp_path / "file.part").write_bytes(b"")
    with pytest.raises(DataError, match=rf"5 attempts failed.* 300000 bytes, announced were {len(CONTENT)};"):
        fetch(server.url("ignores"), tmp_path / "file", expected=SHA256, pause_s=0.001)
    assert not (tmp_path / "file").exists()
    assert (tmp_path / "file.part").stat().st_size == 300_000
