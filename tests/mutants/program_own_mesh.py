"""Specs whose own mesh has a planted bug: reductions, cuts of a vocabulary, plans, and ties; and their correct twins."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor

from mapsto import use
from mapsto.core.compose import Declared
from mapsto.core.plan import MESH
from mapsto.engine.laws.runs import usual
from mapsto.torch import OneProcess

from . import Mutant
from .program_mesh import SOURCE, Normalised, NormalisedByShard, Scores, sums

WORDS = 7
"""Not divisible by two or three ranks."""


# -- data parallel by hand -----------------------------------------------------------------------------------------------
class ByHand(OneProcess):
    """Data parallel: gradients of sums are summed over ranks, and divided once by the summed weight."""

    __mapsto__ = Declared(wraps=("grad",), provides=(MESH,))

    def join(self, device, micro_shards, strict=False):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.micro_shards, self.own = self.world, (self.rank,)

    @property
    def reader_args(self):
        return {"shard": self.own, "shards": self.world}

    def setup(self, builder):
        """The model is whole on every rank."""

    def begin(self, state):
        state.mesh = self

    def grad(self, inner):
        def over_ranks(state, batches):
            (batch,) = batches
            state.shard = self.rank
            with state.sums():
                metrics = inner(state, batch)
            state.shard = 0
            mine, loss = (
                torch.as_tensor(metrics["loss"][1]),
                torch.tensor([float(x) for x in metrics["loss"]], dtype=torch.float64),
            )
            dist.all_reduce(loss)
            for name, parameter in self.named(state):
                self.reduce(name, parameter.grad, mine, loss[1])
            return {**metrics, "loss": (loss[0], loss[1])}

        return over_ranks

    def named(self, state):
        return state.model.named_parameters()

    def reduce(self, name, gradient, mine, weight):
        dist.all_reduce(gradient)
        gradient.div_(weight)


class MeanOfMeans(ByHand):
    def reduce(self, name, gradient, mine, weight):
        gradient.div_(mine * self.world)
        dist.all_reduce(gradient)


class LeavesVectorsOut(ByHand):
    def reduce(self, name, gradient, mine, weight):
        if gradient.ndim > 1:
            super().reduce(name, gradient, mine, weight)
        else:
            gradient.div_(weight)


class ReducesTwice(ByHand):
    def reduce(self, name, gradient, mine, weight):
        super().reduce(name, gradient, mine, weight)
        if name.startswith("head"):
            dist.all_reduce(gradient)


class WithTheNeighbour(ByHand):
    """A ring whose ranks pass on once what they have: all there is for two of them."""

    def reduce(self, name, gradient, mine, weight):
        every = [torch.empty_like(gradient) for _ in range(self.world)]
        dist.all_gather(every, gradient.contiguous())
        gradient.copy_((every[self.rank] + every[self.rank - 1]) / weight)


# -- middleware that reduces what is reduced ------------------------------------------------------------------------------
class AveragesAgain:
    """The mean over replicas of what they have alike."""

    def update(self, inner):
        def outer(state, metrics):
            if dist.is_initialized():
                for gradient in state.gradients():
                    dist.all_reduce(gradient)
                    self.divide(gradient)
            return inner(state, metrics)

        return outer

    def divide(self, gradient):
        gradient.div_(dist.get_world_size())


class SumsAgain(AveragesAgain):
    def divide(self, gradient):
        """A sum is left."""


class DividesTwice(AveragesAgain):
    def divide(self, gradient):
        gradient.div_(dist.get_world_size() ** 2)


class TimesRanks(AveragesAgain):
    """Takes back a division by the ranks, which is made nowhere."""

    def loss(self, inner):
        def outer(state, batch):
            total, weight, outputs = inner(state, batch)
            return total * (dist.get_world_size() if dist.is_initialized() else 1), weight, outputs

        return outer


# -- ties ----------------------------------------------------------------------------------------------------------------
class Tied(nn.Module):
    """Scores of records by a matrix that is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))[:, 0]


class OnePerModule(ByHand):
    """Gives every module memory of its own."""

    def setup(self, builder):
        for module in builder.model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                module.register_parameter(name, nn.Parameter(parameter.detach().clone()))


class OneTooMany(ByHand):
    """Copies what modules share beside the parameter that is trained, which only some of them still read."""

    def setup(self, builder):
        tied = builder.model.second
        del tied.weight
        tied.register_buffer("weight", builder.model.first.weight.detach().clone())


class OncePerName(ByHand):
    """Reduces by name, and so twice what has two."""

    def named(self, state):
        return state.model.named_parameters(remove_duplicate=False)


# -- a vocabulary cut by hand --------------------------------------------------------------------------------------------
class Words:
    """`input` [n] numbers of words, `target` [n] the words after them."""

    vectorised = True

    def __len__(self):
        return 23

    def __getitem__(self, indices):
        return {"input": indices * 5 % WORDS, "target": (indices * 3 + 1) % WORDS}


class Speaker(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.norm, self.head = nn.Embedding(WORDS, 6), nn.LayerNorm(6), nn.Linear(6, WORDS, bias=False)

    def forward(self, x):
        return self.head(self.norm(self.words(x)))


def next_word(model, batch):
    logits = model(batch["input"])
    return F.cross_entropy(logits, batch["target"], reduction="sum"), len(logits), logits


class Summed(torch.autograd.Function):
    """The sum over ranks, whose gradient each has."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Copied(torch.autograd.Function):
    """The same on every rank, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return Summed.apply(gradient)


class CutVocabulary(OneProcess):
    """Rows of the table of words and of the head lie on ranks, the last of them filled up; each rank has every record."""

    __mapsto__ = Declared(wraps=("grad",), provides=(MESH,))

    def join(self, device, micro_shards, strict=False):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.rows = -(-WORDS // self.world)
        self.start = self.rank * self.rows

    def setup(self, builder):
        model = builder.model
        for module in (model.words, model.head):
            padded = F.pad(module.weight.detach(), (0, 0, 0, self.rows * self.world - WORDS))
            module.weight = nn.Parameter(padded[self.start : self.start + self.rows].clone())
        model.words.forward = lambda x: Summed.apply(self.looked_up(model.words.weight, x))
        model.head.forward = lambda x: self.logits(F.linear(self.spread(x), model.head.weight))

    def looked_up(self, table, x):
        here = (x >= self.start) & (x < self.start + self.rows)
        return F.embedding((x - self.start).clamp(0, self.rows - 1), table) * here[:, None]

    def spread(self, x):
        return Copied.apply(x)

    def logits(self, own):
        padded = F.pad(own, (self.start, self.rows * self.world - self.start - self.rows))
        return Summed.apply(padded)[:, :WORDS]

    def begin(self, state):
        state.mesh = self

    def whole(self, tensor):
        if tensor.ndim < 2:
            return tensor
        every = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(every, tensor.contiguous())
        return torch.cat(every)[:WORDS]

    def grad(self, inner):
        return lambda state, batch: inner(state, batch)


class Unmasked(CutVocabulary):
    def looked_up(self, table, x):
        return F.embedding((x - self.start) % self.rows, table)


class MaskedByTheLastRow(CutVocabulary):
    """Takes the row after its own for its own, too."""

    def looked_up(self, table, x):
        here = (x >= self.start) & (x <= self.start + self.rows)
        return F.embedding((x - self.start).clamp(0, self.rows - 1), table) * here[:, None]


class FilledUp(CutVocabulary):
    """Words that there are not take part in the softmax."""

    def logits(self, own):
        return Summed.apply(F.pad(own, (self.start, self.rows * self.world - self.start - self.rows)))


class NoSumBackward(CutVocabulary):
    def spread(self, x):
        return x


# -- plans of tensor and pipeline ranks ----------------------------------------------------------------------------------
class Normed(nn.Module):
    """A hidden layer that is cut, normalised over all of its columns, and a gain."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.gain = nn.Linear(8, 12), nn.Linear(12, 1), nn.Parameter(torch.tensor(1.5))

    def tensor_plan(self):
        return {"up": "colwise", "down": "rowwise"}

    def normed(self, h):
        return h * h.square().mean(-1, keepdim=True).add(1e-3).rsqrt()

    def forward(self, x):
        return (self.down(self.normed(torch.tanh(self.up(x)))) * self.gain)[:, 0]


def on_columns(h, function):
    """A function of the columns that lie here."""
    return DTensor.from_local(function(h.to_local()), h.device_mesh, h.placements) if isinstance(h, DTensor) else function(h)


class NormedByColumns(Normed):
    def normed(self, h):
        return on_columns(h, super().normed)


class GainOfColumns(Normed):
    """Each rank has the gradient of its own columns for a parameter that all have."""

    def forward(self, x):
        return self.down(on_columns(self.normed(torch.tanh(self.up(x))), lambda part: part * self.gain))[:, 0]


class Scaled(Normed):
    """What each rank has is scaled as if its columns were all: a sum over ranks too many."""

    def normed(self, h):
        return on_columns(super().normed(h), lambda part: part * (12 / part.shape[-1]))


class Layers(nn.Module):
    """Four blocks and a head."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(self.norm(x))

    def last(self, x):
        return self.head(x)[:, 0]

    def pipeline_plan(self):
        return [*self.blocks, self.norm, (self.last, "head")]


class LeavesTheNormOut(Layers):
    def pipeline_plan(self):
        return [*self.blocks, (lambda x: self.last(x + 0 * self.norm(x)), "head", "norm")]


# -- specs ---------------------------------------------------------------------------------------------------------------
def _spec(mesh, model=Scores, task=sums, **changes):
    data = {"train": SOURCE} if task is sums else {"train": {"source": {"use": f"{__name__}:Words"}, "batch_size": 8}}
    fields = {"model": use(model), "optimizer": use("sgd", lr=0.05), "middleware": [], "schedule": None, **changes}
    return usual(task=task, data=data, mesh=mesh, **fields)


def by_hand():
    return _spec(use(ByHand))


def mean_of_means():
    return _spec(use(MeanOfMeans))


def leaves_vectors_out():
    return _spec(use(LeavesVectorsOut))


def reduces_twice():
    return _spec(use(ReducesTwice))


def with_the_neighbour():
    return _spec(use(WithTheNeighbour))


def averages_again():
    return _spec({"replicate": 2}, middleware=[use(AveragesAgain)])


def sums_again():
    return _spec({"replicate": 2}, middleware=[use(SumsAgain)])


def divides_twice():
    return _spec({"replicate": 2}, middleware=[use(DividesTwice)])


def times_ranks():
    return _spec({"replicate": 2}, middleware=[use(TimesRanks)])


def tied():
    return _spec(use(ByHand), Tied)


def one_per_module():
    return _spec(use(OnePerModule), Tied)


def one_too_many():
    return _spec(use(OneTooMany), Tied)


def once_per_name():
    return _spec(use(OncePerName), Tied)


def cut_vocabulary():
    return _spec(use(CutVocabulary), Speaker, next_word)


def unmasked():
    return _spec(use(Unmasked), Speaker, next_word)


def masked_by_the_last_row():
    return _spec(use(MaskedByTheLastRow), Speaker, next_word)


def filled_up():
    return _spec(use(FilledUp), Speaker, next_word)


def no_sum_backward():
    return _spec(use(NoSumBackward), Speaker, next_word)


def normed():
    return _spec({"tensor": 4}, Normed)


def normed_by_columns():
    return _spec({"tensor": 4}, NormedByColumns)


def gain_of_columns():
    return _spec({"tensor": 4}, GainOfColumns)


def scaled():
    return _spec({"tensor": 4}, Scaled)


def staged():
    return _spec({"pipeline": 4}, Layers)


def leaves_the_norm_out():
    return _spec({"pipeline": 4}, LeavesTheNormOut)


def two_axes():
    return _spec({"shard": 4, "tensor": 2}, Normed, optimizer=use(Normalised))


def two_axes_by_shard():
    return _spec({"shard": 4, "tensor": 2}, Normed, optimizer=use(NormalisedByShard))


def _mutant(name, bug, twin, models, law="program.own_mesh"):
    return Mutant(law=law, name=name, bug=bug, twin=twin, models=models)


MUTANTS = [
    _mutant("middleware sums replicas' gradients again", sums_again, averages_again, "horovod#2654", "program.replicated"),
    _mutant("middleware divides by ranks again", divides_twice, averages_again, "powersgd#10", "program.replicated"),
    _mutant("the loss is times the number of ranks", times_ranks, averages_again, "transformers#37474", "program.replicated"),
    _mutant("a mean over ranks of means of records", mean_of_means, by_hand, "torchtitan#2206"),
    _mutant("gradients of vectors are not reduced", leaves_vectors_out, by_hand, "Megatron-LM#1446"),
    _mutant("some gradients are reduced twice", reduces_twice, by_hand, "horovod#2654"),
    _mutant("modules that shared a weight have one each", one_per_module, tied, "lingua#75"),
    _mutant("a shared weight becomes a copy that is not trained", one_too_many, tied, "verl#7835"),
    _mutant("a shared weight is reduced for each of its names", once_per_name, tied, "Megatron-LM#656"),
    _mutant("words of other ranks are not masked", unmasked, cut_vocabulary, "Megatron-LM#1754"),
    _mutant("the mask lets one word more in", masked_by_the_last_row, cut_vocabulary, "ml-cross-entropy#59"),
    _mutant("rows that fill up the head are words", filled_up, cut_vocabulary, "unsloth#10616"),
    _mutant("the input of the head has the gradient of a part", no_sum_backward, cut_vocabulary, "SkyRL#1886"),
    _mutant("hidden values are normalised over a rank's columns", normed_by_columns, normed, "NeMo-RL#3716"),
    _mutant("a gain has the gradient of a rank's columns", gain_of_columns, normed, "Megatron-LM#1446"),
    _mutant("columns are scaled by the number of ranks", scaled, normed, "pytorch#36516"),
    _mutant("a ring that passes on once", with_the_neighbour, by_hand, "LLM-Training-Puzzles#9", "program.own_mesh_of_three"),
    _mutant("stages leave a layer out", leaves_the_norm_out, staged, "Megatron-LM#1304", "program.own_mesh_of_three"),
    _mutant("the norm of a shard beside tensor ranks", two_axes_by_shard, two_axes, "Megatron-LM#6500", "program.own_axes"),
]
