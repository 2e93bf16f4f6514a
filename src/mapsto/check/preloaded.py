"""What every worker needs, imported once by the process that they are forks of."""

import contextlib

from ..core.errors import MapstoError
from ..core.laws import all_laws
from . import worker as worker
from .wings import law_wings

for wing in law_wings():
    wing.preload()
with contextlib.suppress(MapstoError):  # told to whoever asks for the laws
    all_laws()
