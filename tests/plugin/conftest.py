"""A fresh environment that sees the packages of this one, into which plugins are installed by pip."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.forked import PRELOAD, run

from mapsto.processes.forks import ForkServer


@dataclass(frozen=True)
class Fresh:
    """An environment of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @functools.cached_property
    def server(self) -> ForkServer:
        """What its processes are forked from: its Python, with the framework imported and nothing that was installed read."""
        found = self.run("-c", "import json, sys; print(json.dumps(sys.path[1:]))").stdout
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(self.python))
            patch.setattr(sys, "path", [*json.loads(found), str(Path(__file__).parents[2])])  # the last for tests.forked
            return ForkServer(PRELOAD, environment={"PYTHONDONTWRITEBYTECODE": "1"})

    def close(self) -> None:
        """End what was forked."""
        if "server" in self.__dict__:
            self.server.close()

    def fork(self, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """As `run`, in a fork of a process that has the framework."""
        return run(self.server, *words, cwd=cwd, timeout=300)

    def run(self, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run its Python with these words."""
        command = [str(self.python), *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False, **options)  # type: ignore[call-overload, no-any-return]

    def mapsto(self, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run its `mapsto`."""
        return self.fork("-m", "mapsto", *words, cwd=cwd)

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
def fresh_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Fresh]]:
    """Make a fresh environment."""
    found: list[Fresh] = []

    def make() -> Fresh:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=False, symlinks=True)
        site = next((folder / "lib").glob("python*/site-packages"))
        here = sysconfig.get_paths()["purelib"]
        (site / "packages_of_the_tests.pth").write_text(f"import site; site.addsitedir({here!r})\n")
        found.append(Fresh(folder))
        return found[-1]

    yield make
    for each in found:
        each.close()
