"""The laws of optimizers, and what this one says of itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mapsto
from mapsto.testing import laws_of

MyName = mapsto.registry.get("optimizer", "my_name")


# Each law that its kind owes is a test of its own: `mapsto check optimizer/my_name` prints them.
@laws_of("optimizer/my_name")
def test_laws(law: Callable[[], None]) -> None:
    law()


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(ValueError, match="beta"):
        MyName([torch.nn.Parameter(torch.zeros(1))], beta=1.5)
