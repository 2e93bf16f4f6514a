"""Write locks/EXTRA.txt anew: name, version and hashes of all that an extra of pyproject.toml installs. Needs `uv`.

PyTorch and what its builds for GPUs bring are left out: which build a machine needs is not a lock's to say, and
`pip install -e ".[EXTRA]"` adds it within the range of pyproject.toml.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
EXTRAS = ("test", "bench")
OF_THE_BUILD = re.compile(r"(torch|triton|cuda-.*|nvidia-.*)==")


def lock(extra: str) -> str:
    """The lines of a lock, without addresses: a package, its hashes, the next one."""
    words = ["--extra", extra, "--universal", "--python-version", "3.11", "--generate-hashes"]
    shape = ["--no-emit-index-url", "--no-header", "--no-annotate", "--quiet"]
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *words, *shape]
    made = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    packages = re.split(r"\n(?=\S)", made.stdout.strip())
    return "\n".join(package for package in packages if not OF_THE_BUILD.match(package)) + "\n"


if __name__ == "__main__":
    for extra in EXTRAS:
        (HERE / f"{extra}.txt").write_text(lock(extra))
