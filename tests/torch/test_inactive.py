"""Middleware that has nothing to do costs nothing: the program is made of the very functions it would have without it."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from mapsto import use
from mapsto.torch import build_program

INACTIVE = (
    use("timing", every=0),
    use("compile", enabled=False),
    use("mixed_precision", dtype="fp32"),
    use("sam", rho=0.0),
    use("accumulate", steps=1),
    use("mixup", alpha=0.0),
    use("distillation", teacher=nn.Identity(), alpha=0.0),
    use("clip_norm", max_norm=None),
    use("clip_value", value=None),
    use("gradient_noise", eta=0.0),
)


def mappings(*middleware: Any) -> dict[str, str]:
    program = build_program(nn.Linear(4, 2), middleware=middleware, device="cpu")
    made = {"loss": program.loss, "grad": program.grad, "update": program.update, "step": program.step_}
    return {name: mapping.__qualname__ for name, mapping in made.items()}


def test_ten_inactive_middlewares_leave_the_four_mappings_as_they_are() -> None:
    assert len(INACTIVE) == 10
    assert mappings(*INACTIVE) == mappings()


@pytest.mark.parametrize(
    ("active", "wrapped"),
    [(use("clip_norm", max_norm=1.0), "update"), (use("accumulate", steps=2), "grad"), (use("timing", every=1), "step")],
)
def test_the_control_an_active_one_wraps_its_mapping(active: Any, wrapped: str) -> None:
    plain, found = mappings(), mappings(active)
    assert found[wrapped] != plain[wrapped]
