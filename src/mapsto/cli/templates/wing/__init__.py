"""The wing my_name: what mapsto knows of the framework before it is imported. This module imports nothing of the framework."""

from mapsto.core.wings import Framework

WING = Framework(
    name="my_name",
    # Whose classes and functions are the framework's own. The first is what must be installed: put your framework's here.
    packages=("mapsto_my_name.framework", "mapsto_my_name"),
    laws="mapsto_my_name.laws",
    # What whoever builds them supplies, so that no spec states it.
    given={"layer": ("rng",), "model": ("rng",)},
)
