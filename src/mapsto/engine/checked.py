"""What can be told of a spec before anything is built or read: the same for who shows it, plans with it and trains it."""

from __future__ import annotations

from ..core.spec import Spec
from .awaited import require_known
from .initial import located
from .wing import find_wing


def checked(spec: Spec, *, begins: bool = True) -> Spec:
    """The spec, every part of which fits its target and is one that can be built, as far as that takes neither the model nor
    the data. begins: it is of a run that has not begun, so what it starts from must be there.

    Raises SpecError naming the path, what is allowed and the nearest right name, and ComposeError.
    """
    spec.check()
    require_known(spec)
    if begins and spec.init_from is not None:
        located(spec.init_from)
    wing = find_wing(spec.wing)
    if hasattr(wing, "refuse"):
        wing.refuse(spec)
    return spec
