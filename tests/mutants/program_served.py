"""Specs of a parameter server with a planted bug, and their correct twins."""

from __future__ import annotations

from mapsto import use
from mapsto.core.compose import Declared
from mapsto.engine.laws.runs import usual

from . import Mutant
from .program_mesh import SOURCE, Scores, sums


class Shrinks:
    """update -> update on a gradient that is no longer than 0.1."""

    elementwise = True
    __mapsto__ = Declared(wraps=("update",))

    def update(self, inner):
        def outer(state, metrics):
            norm = self.norm(state)
            for gradient in state.gradients():
                gradient.mul_(0.1 / norm.clamp(min=0.1))
            return inner(state, metrics)

        return outer

    def norm(self, state):
        return state.mesh.norm(state.gradients())


class ShrinksItsRows(Shrinks):
    """Takes the rows that its server holds for all there are."""

    def norm(self, state):
        import torch

        return torch.nn.utils.get_total_norm(state.gradients())


def _spec(middleware):
    return usual(
        model=use(Scores),
        task=sums,
        optimizer=use("sgd", lr=0.05),
        schedule=None,
        middleware=[use(middleware)],
        data={"train": SOURCE},
        mesh={"servers": 2, "workers": 2},
    )


def shrinks():
    return _spec(Shrinks)


def shrinks_its_rows():
    return _spec(ShrinksItsRows)


MUTANTS = [
    Mutant(
        law="program.served",
        name="a server takes the norm of its rows",
        bug=shrinks_its_rows,
        twin=shrinks,
        models="a norm of one server's rows",
    ),
]
