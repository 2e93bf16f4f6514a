"""The secret by which the nodes of a run know each other: said by the user, or made once in the run folder that they share."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import LaunchError
from ..core.signing import VARIABLE

FILE = ".secret"
"""Its name in a run folder."""
LEAST, MOST = 16, 4096
"""Bytes that a secret must and may have."""


def secret_of(said: str | None, environment: Mapping[str, str], folder: Path | None) -> bytes:
    """The secret in the file that was said, else in the environment, else of the run folder (made there, where there is none).

    folder: None where the nodes do not share one by its name. Raises LaunchError where there is no secret to be had, where it
    is too short, or where others of this machine may read its file.
    """
    if said is not None:
        try:
            return _checked(_read(Path(said), links=True), f"--secret-file {said}")
        except FileNotFoundError:
            raise LaunchError(f"--secret-file {said}: there is no such file") from None
    if VARIABLE in environment:
        return _checked(environment[VARIABLE].strip().encode(), VARIABLE)
    if folder is None:
        raise LaunchError(
            "nodes that meet know each other by a secret in the run folder: say --run FOLDER, the same on storage that all of "
            f"them see, or give all of them one secret ({VARIABLE} in the environment, or --secret-file FILE)"
        )
    return _checked(_kept(folder / FILE), str(folder / FILE))


def _checked(secret: bytes, where: str) -> bytes:
    if len(secret) < LEAST:
        raise LaunchError(f"{where}: a secret has at least {LEAST} characters, and this has {len(secret)}")
    return secret


def _kept(file: Path) -> bytes:
    """The secret in the file of a run folder; whichever node comes first makes it, and it appears whole."""
    with contextlib.suppress(FileNotFoundError):
        return _read(file)
    made = file.with_name(f"{FILE}.{secrets.token_hex(8)}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, secrets.token_hex(32).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        with contextlib.suppress(FileExistsError):  # another node was faster
            os.link(made, file)
    except OSError as error:
        raise LaunchError(f"{file} cannot be made: {error.strerror}; give all nodes one secret ({VARIABLE})") from None
    finally:
        made.unlink(missing_ok=True)
    return _read(file)


def _read(file: Path, *, links: bool = False) -> bytes:
    """What stands in a file that is its owner's alone; links: follow them, as where a cluster hands out its secrets."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LaunchError(f"{file}: the secret cannot be read: {error.strerror}") from None
    with open(handle, "rb") as opened:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise LaunchError(f"{file}: a file with the secret is wanted, and this is none")
        if about.st_mode & 0o077:
            raise LaunchError(f"{file}: others may read or write it (mode {about.st_mode & 0o777:o}): chmod 600 {file}")
        found = opened.read(MOST + 1)
    if len(found) > MOST:
        raise LaunchError(f"{file}: a secret has at most {MOST} bytes")
    return found.strip()
