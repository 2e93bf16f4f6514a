"""Specs with a planted bug that shows on a mesh of two ranks, and their correct twins."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from mapsto import use
from mapsto.engine.laws.runs import usual
from mapsto.laws import program_mesh
from mapsto.torch.mesh.one import local

from . import Mutant

SOURCE = {"source": {"use": "mapsto.engine.laws.runs:Blobs"}, "batch_size": 8, "shuffle": True}


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(8, 5), nn.Tanh()), nn.Linear(5, 1)

    def forward(self, x):
        return self.head(self.body(x))[:, 0]


def sums(model, batch):
    """Summed squared errors and the number of records."""
    prediction = model(batch["input"])
    return ((prediction - batch["target"]) ** 2).sum(), len(prediction), prediction


def around(model, batch):
    """Calls the parts of the model one by one, and looks at what one of them gives."""
    hidden = model.body(batch["input"])
    prediction = model.head(hidden)[:, 0]
    total = ((prediction - batch["target"]) ** 2).sum()
    return total + hidden.square().sum(), len(prediction), prediction


def leads(model, batch):
    """The same with a penalty that the leader alone adds."""
    total, weight, prediction = around(model, batch)
    follower = dist.is_initialized() and dist.get_rank() > 0
    return total - model.body(batch["input"]).square().sum() * follower, weight, prediction


class Normalised(torch.optim.Optimizer):
    """Steps of one length along the gradient of each parameter (Hazan et al. 2015)."""

    def __init__(self, params, lr=0.05):
        super().__init__(params, {"lr": lr})

    def norm(self, gradient):
        norm = gradient.norm()
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    own = local(parameter.grad)
                    local(parameter).sub_(own * (group["lr"] / self.norm(parameter.grad).clamp(min=1e-12)))


class NormalisedByShard(Normalised):
    def norm(self, gradient):
        return local(gradient).norm()


class Doubled:
    """Every record counts twice."""

    def loss(self, inner):
        def outer(state, batch):
            total, weight, outputs = inner(state, batch)
            return 2 * total, 2 * weight, outputs

        return outer


class SkipsIdlePasses(Doubled):
    """Leaves the model out where there is nothing to learn from."""

    def loss(self, inner):
        doubled = super().loss(inner)

        def outer(state, batch):
            if state.mesh.absent:
                return torch.zeros((), dtype=torch.float64, requires_grad=True), 0, None
            return doubled(state, batch)

        return outer


class Jitter:
    """Noise on the gradient, from the state's own stream."""

    def update(self, inner):
        def outer(state, metrics):
            generator = self.generator(state)
            for parameter in state.parameters:
                parameter.grad.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=1e-3)
            return inner(state, metrics)

        return outer

    def generator(self, state):
        return state.generator("jitter")


class JitterOfTheRank(Jitter):
    """From the framework's generator, which stands where the last micro-shard of this rank left it."""

    def generator(self, state):
        return None


class ClipNorm:
    """Clips by the norm over all ranks."""

    def update(self, inner):
        def outer(state, metrics):
            norm = self.norm(state)
            for gradient in state.gradients():
                local(gradient).mul_(1e-3 / norm.clamp(min=1e-3))
            return inner(state, {**metrics, "grad_norm": norm})

        return outer

    def norm(self, state):
        return state.mesh.norm(state.gradients())


class LocalClipNorm(ClipNorm):
    def norm(self, state):
        return torch.nn.utils.get_total_norm([local(g) for g in state.gradients()])


LocalClipNorm.__name__ = "ClipNorm"  # takes the place of the one built in


def _spec(task=sums, **changes):
    fields = {"model": use(Scores), "optimizer": use("sgd", lr=0.05), "middleware": [], "schedule": None, **changes}
    return usual(task=task, data={"train": SOURCE}, **fields)


def goes_around():
    return _spec(around)


def follows():
    return _spec(leads)


def normalised():
    return _spec(optimizer=use(Normalised))


def normalised_by_shard():
    return _spec(optimizer=use(NormalisedByShard))


def doubled():
    return _spec(middleware=[use(Doubled)])


def skips_idle_passes():
    program_mesh.PATIENCE = 4.0  # in the rank that judges it, where to wait in vain is the finding
    return _spec(middleware=[use(SkipsIdlePasses)])


def jitters():
    return _spec(middleware=[use(Jitter)])


def jitters_by_rank():
    return _spec(middleware=[use(JitterOfTheRank)])


def clips():
    return _spec(middleware=[use(ClipNorm)])


def clips_its_shard():
    return _spec(middleware=[use(LocalClipNorm)])


MUTANTS = [
    Mutant(
        law="program.replicated",
        name="the leader alone adds a penalty",
        bug=follows,
        twin=goes_around,
        models="code under `if rank == 0`",
    ),
    Mutant(
        law="program.sharded",
        name="an optimizer takes the norm of its shard",
        bug=normalised_by_shard,
        twin=normalised,
        models="fairscale#767",
    ),
    Mutant(
        law="program.idle_rank",
        name="a rank without records leaves the model out",
        bug=skips_idle_passes,
        twin=doubled,
        models="a hang at the end of an epoch",
    ),
    Mutant(
        law="program.agreement",
        name="noise from the generator of the rank's own micro-shard",
        bug=jitters_by_rank,
        twin=jitters,
        models="SkyRL#1709",
    ),
    Mutant(
        law="program.global_norm",
        name="it clips by the norm of its shard",
        bug=clips_its_shard,
        twin=clips,
        models="Megatron-LM#6489",
    ),
]
