"""One process per run folder."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from pathlib import Path

from actrix.files.container import printable

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
"""Error numbers of a lock that somebody holds."""


class RunLockedError(RuntimeError):
    """Another process trains into this folder."""


class RunLock:
    """Held while a process trains into `folder`; RunLockedError where another one holds it.

    The operating system gives it back when the process ends, however it ends: no lock is ever stale.
    """

    def __init__(self, folder: Path, patience: float = 0.0):
        """`patience`: seconds to wait for a process that is about to end."""
        self.path, self.patience = folder / ".lock", patience
        self._file: int | None = None

    def __enter__(self) -> RunLock:
        # A link would lead out of the folder, to a file that is then overwritten.
        links = getattr(os, "O_NOFOLLOW", 0)
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | links | getattr(os, "O_NONBLOCK", 0), 0o644)
        except OSError as error:
            if not self.path.is_symlink() and not self.path.exists():
                raise
            raise RunLockedError(
                f"{self.path} cannot be locked ({error.strerror}): remove it, if no process trains there."
            ) from None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise RunLockedError(f"{self.path} is no regular file: remove it.")
        try:
            self._wait_for(file)
        except OSError as error:
            if error.errno not in _TAKEN:
                os.close(file)
                raise RunLockedError(
                    f"{self.path} cannot be locked: {error.strerror}; does its file system have locks?"
                ) from error
            owner = os.read(file, 20).decode(errors="replace").strip()
            os.close(file)
            who = f"another process ({printable(owner)})" if owner else "another process"
            raise RunLockedError(
                f"{self.path.parent} is in use by {who}: wait for it to end, or stop it."
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"pid {os.getpid()}".encode())
        self._file = file
        return self

    def _wait_for(self, file: int) -> None:
        end = time.monotonic() + self.patience
        while True:
            try:
                return _lock(file)
            except OSError as error:
                if error.errno not in _TAKEN or time.monotonic() >= end:
                    raise
            time.sleep(0.1)

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def made(folder: Path) -> RunLock:
    """The lock of a folder, which is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    return RunLock(folder)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 1 << 20, os.SEEK_SET)  # beyond what is written: locked bytes cannot be read there
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
