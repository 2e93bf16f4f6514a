"""What every worker needs, imported once by the process that they are forks of."""

import contextlib

from ..core.errors import MapstoError
from ..core.law_wings import law_wings
from ..core.laws import all_laws
from ..core.wings import DEFAULT
from . import worker as worker

LATER: list[str] = []
"""Modules that are imported while first laws are judged: only some laws need them, and they take long."""
for wing in law_wings():
    wing.preload()
    LATER += wing.preload_later()
with contextlib.suppress(MapstoError):  # told to whoever asks for the laws
    all_laws([DEFAULT])
