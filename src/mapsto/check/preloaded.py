"""What every worker needs, imported once by the process that they are forks of."""

import contextlib

from ..core.errors import MapstoError
from ..core.law_wings import law_wings
from ..core.laws import all_laws
from ..core.wings import DEFAULT
from . import worker as worker

for wing in law_wings():
    wing.preload()
with contextlib.suppress(MapstoError):  # told to whoever asks for the laws
    all_laws([DEFAULT])
