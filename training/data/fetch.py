"""How does a large file get here whole, even when the connection is cut?

A download grows in `NAME.part`; `NAME.edition.part` holds the ETag (or Last-Modified) of what is being read. It is
continued with an HTTP Range request that holds only for that edition (If-Range, RFC 9110, 13.1.5). From a server that
ignores Range, has another edition by now, or names none, it is read from the start. Only a file of the announced size
and the expected hash gets its final name.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Final

from training.errors import DataError

BLOCK: Final = 1 << 18
ATTEMPTS: Final = 5
TIMEOUT_S: Final = 60.0
_FINAL: Final = frozenset({400, 401, 403, 404, 405, 410, 451})
"""HTTP answers that another attempt will not change."""


def digest_of(path: Path, algorithm: str = "sha256", report: Callable[[int], None] = lambda _bytes: None) -> str:
    """Hash a file with "sha256" or "md5" (where nothing better is published); lower-case hexadecimal.

    `report` is told the bytes read since its last call.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            report(len(block))
    return digest.hexdigest()


def fetch(
    url: str,
    target: Path,
    *,
    expected: str | None,
    algorithm: str = "sha256",
    pause_s: float = 1.0,
    report: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> str:
    """Download a file, continuing where an earlier attempt ended.

    Args:
        url: http or https address.
        target: final name; written only when everything is right.
        expected: published hash or the beginning of it, or None.
        algorithm: of that hash, "sha256" or "md5".
        pause_s: wait before the second attempt, in seconds; doubled before each further one.
        report: is told the bytes that are there and the bytes in all, if announced.

    Returns:
        The SHA-256 of the file.

    Raises:
        DataError: HTTP status, size or hash are wrong, or the connection fails `ATTEMPTS` times.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: allowed are http and https")
    target.parent.mkdir(parents=True, exist_ok=True)
    part, edition = target.with_name(target.name + ".part"), target.with_name(target.name + ".edition.part")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            _continue(url, part, edition, report)
            break
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code} ({error.reason})"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                if _is_whole(part, edition, error.headers):
                    break
                part.unlink(missing_ok=True)  # what is there is not the beginning of what the server has
            if error.code in _FINAL:
                raise DataError(f"{url}: {problem}") from error
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
    else:
        raise DataError(f"{url}: {ATTEMPTS} attempts failed, the last: {problem}; run again to continue {part.name}")
    found = digest_of(part, algorithm)
    if expected is not None and not found.startswith(expected.lower()):
        part.unlink()
        edition.unlink(missing_ok=True)
        raise DataError(f"{url}: {algorithm} is {found}, expected {expected}; nothing was kept")
    sha256 = found if algorithm == "sha256" else digest_of(part)
    part.replace(target)
    edition.unlink(missing_ok=True)
    return sha256


def _continue(url: str, part: Path, edition: Path, report: Callable[[int, int | None], None]) -> None:
    known = edition.read_text(encoding="utf-8") if edition.exists() else ""
    start = part.stat().st_size if part.exists() and known else 0
    headers = {"Range": f"bytes={start}-", "If-Range": known} if start else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - http and https alone
        continues = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if continues and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise http.client.HTTPException("the server continued at another place")
        if continues and _edition_of(answer.headers) not in {known, ""}:
            part.unlink()  # a server that does not heed If-Range
            raise http.client.HTTPException("the server continued another edition of the file")
        done = start if continues else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        if not continues:
            # in this order: an edition never stands beside the bytes of another, whenever the process ends
            edition.unlink(missing_ok=True)
            part.write_bytes(b"")
            edition.write_text(_edition_of(answer.headers), encoding="utf-8")
        with part.open("ab") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                done += len(block)
                report(done, total)
    if total is not None and done != total:
        raise http.client.HTTPException(f"size is {done} bytes, announced were {total}")


def _edition_of(headers: Message) -> str:
    """Return what If-Range takes: the strong ETag, else the time of the last change, else nothing."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _is_whole(part: Path, edition: Path, headers: Message) -> bool:
    """Tell from an answer 416 (`Content-Range: bytes */SIZE`) whether the last byte was there before the request."""
    known = edition.read_text(encoding="utf-8") if edition.exists() else ""
    if not known or not part.exists() or _edition_of(headers) not in {known, ""}:
        return False
    return headers.get("Content-Range", "").replace(" ", "") == f"bytes*/{part.stat().st_size}"
