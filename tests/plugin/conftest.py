"""A fresh environment that sees the packages of this one, into which plugins are installed by pip."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Fresh:
    """An environment of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run its Python with these words."""
        command = [str(self.python), *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False, **options)  # type: ignore[call-overload, no-any-return]

    def mapsto(self, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run its `mapsto`."""
        return self.run("-m", "mapsto", *words, **options)

    def install(self, *folders: Path) -> None:
        """Install packages as a user does, but with the tools and libraries that are here: nothing is fetched."""
        words = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(self.python), "install", *words, *map(str, folders)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def fresh_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Fresh]:
    """Make a fresh environment."""

    def make() -> Fresh:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=False, symlinks=True)
        site = next((folder / "lib").glob("python*/site-packages"))
        here = sysconfig.get_paths()["purelib"]
        (site / "packages_of_the_tests.pth").write_text(f"import site; site.addsitedir({here!r})\n")
        return Fresh(folder)

    return make
