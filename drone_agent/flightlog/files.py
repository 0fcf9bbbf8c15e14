"""How does a file get onto the card so that a pulled battery leaves either all of it or nothing?"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def fsync_folder(folder: Path) -> None:
    """Forces the names in `folder` to the card (a rename is durable only after this)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(target: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes `content` under a temporary name, then renames it to `target`; raises OSError and leaves no remains.

    With `durable` the file is fsynced before the rename and the folder after it.
    """
    temporary = target.with_name(target.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(target.parent)


def why(error: OSError) -> str:
    """What `error` means and what to do about it, in a few words."""
    advice = {
        errno.ENOSPC: "the disk is full: free some space or choose another folder",
        errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
        errno.EROFS: "the file system is read-only: choose another folder or remount it",
        errno.EACCES: "permission denied: choose a folder that this user may write to",
        errno.EPERM: "not permitted: choose a folder that this user may write to",
        errno.ENOTDIR: "a part of the path is a file: choose another folder",
        errno.EIO: "input/output error: the card or disk may be failing",
    }
    return advice.get(error.errno or 0, error.strerror or type(error).__name__)
