"""Middleware with a planted bug, and their correct twins."""

from __future__ import annotations

from contextlib import contextmanager

import torch

import mapsto
from mapsto import use
from mapsto.core.laws import Example
from mapsto.torch.middleware.accumulation import Accumulate
from mapsto.torch.middleware.averaging import EMA
from mapsto.torch.middleware.clipping import ClipNorm, ClipValue
from mapsto.torch.middleware.copies import kept
from mapsto.torch.middleware.gradients import dense
from mapsto.torch.middleware.sharpness import SAM

from . import Mutant


class Label:
    """Smooths nothing at strength 0, by the generator that is its own."""

    def __init__(self, strength=0.1):
        self.strength = strength

    def loss(self, inner):
        def outer(state, batch):
            noise = torch.randn(batch["input"].shape, generator=state.generator("label"))
            return inner(state, {**batch, "input": batch["input"] + self.strength * noise.to(batch["input"].dtype)})

        return outer


class LabelGlobally(Label):
    def loss(self, inner):
        def outer(state, batch):
            noise = torch.randn(batch["input"].shape)
            return inner(state, {**batch, "input": batch["input"] + self.strength * noise.to(batch["input"].dtype)})

        return outer


class Scales:
    def __init__(self, factor=0.5):
        self.factor = factor

    def update(self, inner):
        def outer(state, metrics):
            for gradient in dense(state.parameters):
                gradient.mul_(self.factor)
            return inner(state, metrics)

        return outer


class ScalesRounded(Scales):
    def update(self, inner):
        def outer(state, metrics):
            for gradient in dense(state.parameters):
                gradient.copy_((gradient.bfloat16() * self.factor).to(gradient.dtype))
            return inner(state, metrics)

        return outer


class Decays(Scales):
    """Weight decay through the gradient, also where its strength is nothing to speak of."""

    def update(self, inner):
        def outer(state, metrics):
            for parameter in state.parameters:
                parameter.grad.mul_(self.factor).add_(parameter.detach(), alpha=1e-4)
            return inner(state, metrics)

        return outer


# -- accumulation ------------------------------------------------------------------------------------------------------
class MeanOfMeans(Accumulate):
    """Averages the mean gradients of the micro-batches."""

    def grad(self, inner):
        def outer(state, batch):
            found = []
            records = len(batch["input"])
            for i in range(self.steps):
                cut = slice(records * i // self.steps, records * (i + 1) // self.steps)
                found.append(inner(state, {n: v[cut] for n, v in batch.items()}))
            for gradient in dense(state.parameters):
                gradient.div_(self.steps)
            return found[-1]

        return outer


class DropsTheRest(Accumulate):
    """Micro-batches of equal size, and the remainder is left out."""

    def grad(self, inner):
        whole = super().grad(inner)

        def outer(state, batch):
            even = len(batch["input"]) // self.steps * self.steps
            return whole(state, {n: v[:even] for n, v in batch.items()})

        return outer


class ClipsParts:
    """Clips in `grad`: within accumulation, the gradient of each micro-batch."""

    def __init__(self, limit=0.05):
        self.limit = limit

    def grad(self, inner):
        def outer(state, batch):
            with state.isolated_gradients():
                metrics = inner(state, batch)
                torch.nn.utils.clip_grad_norm_(state.parameters, self.limit)
            return metrics

        return outer


class ClipsWhole(ClipsParts):
    def grad(self, inner):
        return inner

    def update(self, inner):
        def outer(state, metrics):
            torch.nn.utils.clip_grad_norm_(state.parameters, self.limit)
            return inner(state, metrics)

        return outer


# -- true gradients ----------------------------------------------------------------------------------------------------
class ClipsInHooks(ClipValue):
    """Clamps as gradients arrive at the parameters: parts of them, and still scaled."""

    def setup(self, builder):
        for parameter in builder.model.parameters():
            parameter.register_hook(lambda g: g.clamp(-self.value, self.value))

    def update(self, inner):
        def outer(state, metrics):
            return inner(state, metrics)

        return outer


class ClipsEach(ClipNorm):
    """The norm of each parameter for itself."""

    def update(self, inner):
        def outer(state, metrics):
            for gradient in dense(state.parameters):
                gradient.mul_(torch.clamp(self.max_norm / gradient.norm(), max=1.0))
            return inner(state, metrics)

        return outer


class MeasuresScaled(ClipNorm):
    """Takes the norm in `grad`, where a loss scale is still on it."""

    def grad(self, inner):
        def outer(state, batch):
            metrics = inner(state, batch)
            norm = torch.nn.utils.get_total_norm(dense(state.parameters))
            return {**metrics, "grad_norm": norm}

        return outer

    def update(self, inner):
        return inner


def clipped(gradients):
    return [g.clamp(-0.01, 0.01) for g in gradients]


def clipped_norm(gradients):
    norm = torch.sqrt(sum((g * g).sum() for g in gradients))
    return [g * min(1.0, 0.05 / float(norm)) for g in gradients]


# -- state -------------------------------------------------------------------------------------------------------------
class RampsUp:
    """Gradients grow over its first five updates, which it counts."""

    def __init__(self):
        self.count = 0

    def update(self, inner):
        def outer(state, metrics):
            self.count += 1
            for gradient in dense(state.parameters):
                gradient.mul_(min(self.count / 5, 1.0))
            return inner(state, metrics)

        return outer

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, tree):
        self.count = tree["count"]


class RampsForgetting(RampsUp):
    def state_dict(self):
        return {}

    def load_state_dict(self, tree):
        pass


class RampsOffByOne(RampsUp):
    def load_state_dict(self, tree):
        self.count = tree["count"] + 1


class ForgetsAverages(EMA):
    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, tree):
        self.updates = tree["updates"]


class RoundsAverages(EMA):
    def state_dict(self):
        return {"updates": self.updates, "averages": {n: a.bfloat16() for n, a in self.averages.items()}}


# -- exceptions --------------------------------------------------------------------------------------------------------
class SharpensUnguarded(SAM):
    """Puts the weights back after the second pass, where nothing raises."""

    def grad(self, inner):
        def outer(state, batch):
            with state.isolated_gradients():
                metrics = inner(state, batch)
                saved = [p.detach().clone() for p in state.parameters]
                self._ascend(state)
                state.clear()
                inner(state, batch)
                torch._foreach_copy_([p.detach() for p in state.parameters], saved)
            return metrics

        return outer


class NoDropout:
    """Computes the loss in evaluation mode."""

    def loss(self, inner):
        def outer(state, batch):
            modes = [(m, m.training) for m in state.model.modules()]
            state.model.eval()
            try:
                return inner(state, batch)
            finally:
                for module, mode in modes:
                    module.training = mode

        return outer


class NoDropoutUnguarded:
    def loss(self, inner):
        def outer(state, batch):
            state.model.eval()
            found = inner(state, batch)
            state.model.train()
            return found

        return outer


class Shards:
    """Another random stream for its pass."""

    def grad(self, inner):
        def outer(state, batch):
            before = state.shard
            state.shard = before + 7
            try:
                return inner(state, batch)
            finally:
                state.shard = before

        return outer


class ShardsUnguarded:
    def grad(self, inner):
        def outer(state, batch):
            state.shard += 7
            metrics = inner(state, batch)
            state.shard -= 7
            return metrics

        return outer


class LendsUnguarded(EMA):
    @contextmanager
    def evaluation_weights(self, state):
        live = [t.detach() for t in self.live.values()]
        saved = [t.clone() for t in live]
        torch._foreach_copy_(live, list(self.averages.values()))
        yield
        torch._foreach_copy_(live, saved)


class LendsInPlace(EMA):
    """Gives the averages back in place of the weights."""

    @contextmanager
    def evaluation_weights(self, state):
        live = [t.detach() for t in self.live.values()]
        torch._foreach_copy_(live, list(self.averages.values()))
        yield


class LendsEvaluating(EMA):
    """Leaves the model in evaluation mode."""

    @contextmanager
    def evaluation_weights(self, state):
        with kept([t.detach() for t in self.live.values()]):
            yield
        state.model.eval()


# -- others, small batches -----------------------------------------------------------------------------------------------
class ClampsFirst(ClipValue):
    pass


class ClampsBeside(ClipValue):
    pass


mapsto.example(ClampsFirst, args={"value": 0.01}, commutes=[use("clip_norm", max_norm=0.05)])
mapsto.example(ClampsBeside, args={"value": 0.01}, commutes=[use("freeze", patterns=["embed"])])


class Standardises:
    """Divides inputs by their deviation over the batch; that of one record is 0, and 1 stands for it."""

    def loss(self, inner):
        def outer(state, batch):
            x = batch["input"]
            deviation = x.std(0, correction=0)
            return inner(state, {**batch, "input": x / torch.where(deviation == 0, 1.0, deviation)})

        return outer


class StandardisesUnbiased:
    def loss(self, inner):
        def outer(state, batch):
            x = batch["input"]
            return inner(state, {**batch, "input": x / x.std(0)})

        return outer


EMA_ARGS = Example(args={"decay": 0.5})
NEUTRAL = Example(args={"strength": 0.1}, more={"neutral": {"strength": 0.0}})
FACTOR = Example(args={"factor": 0.5}, more={"neutral": {"factor": 1.0}})
THREE = Example(args={"steps": 3})
VALUE = Example(args={"value": 0.01}, more={"edits": clipped})
NORM = Example(args={"max_norm": 0.05}, more={"edits": clipped_norm})
METRIC = Example(args={"max_norm": 1e9}, more={"norm": "grad_norm"})

MUTANTS = [
    Mutant(
        law="middleware.neutral",
        name="it draws from the default generator",
        bug=LabelGlobally,
        twin=Label,
        models="hidden draws",
        example=NEUTRAL,
    ),
    Mutant(
        law="middleware.neutral",
        name="a factor of 1 is rounded",
        bug=ScalesRounded,
        twin=Scales,
        models="casts around a no-op",
        example=FACTOR,
    ),
    Mutant(
        law="middleware.neutral",
        name="a decay of its own",
        bug=Decays,
        twin=Scales,
        models="hidden weight decay",
        example=FACTOR,
    ),
    Mutant(
        law="middleware.accumulation",
        name="a mean of means",
        bug=MeanOfMeans,
        twin=Accumulate,
        models="torchtune#1875",
        example=THREE,
    ),
    Mutant(
        law="middleware.accumulation",
        name="the uneven rest is dropped",
        bug=DropsTheRest,
        twin=Accumulate,
        models="accelerate#641",
        example=THREE,
    ),
    Mutant(
        law="middleware.accumulation",
        name="clips each micro-batch",
        bug=ClipsParts,
        twin=ClipsWhole,
        models="transformers#1563",
    ),
    Mutant(
        law="middleware.true_gradients",
        name="clips in hooks",
        bug=ClipsInHooks,
        twin=ClipValue,
        models="pytorch/examples#1196",
        example=VALUE,
    ),
    Mutant(
        law="middleware.true_gradients",
        name="clips each parameter by its own norm",
        bug=ClipsEach,
        twin=ClipNorm,
        models="fairscale#767",
        example=NORM,
    ),
    Mutant(
        law="middleware.true_gradients",
        name="the norm is that of scaled gradients",
        bug=MeasuresScaled,
        twin=ClipNorm,
        models="nano-world-model#22",
        example=METRIC,
    ),
    Mutant(
        law="middleware.resume",
        name="its counter is in no state",
        bug=RampsForgetting,
        twin=RampsUp,
        models="lightly-train#301",
    ),
    Mutant(
        law="middleware.resume", name="its counter is off by one", bug=RampsOffByOne, twin=RampsUp, models="off by one on load"
    ),
    Mutant(
        law="middleware.resume",
        name="averages start afresh",
        bug=ForgetsAverages,
        twin=EMA,
        models="EMA without checkpoints",
        example=EMA_ARGS,
    ),
    Mutant(
        law="middleware.resume",
        name="averages are rounded when saved",
        bug=RoundsAverages,
        twin=EMA,
        models="pytorch#43706",
        example=EMA_ARGS,
    ),
    Mutant(
        law="middleware.exceptions",
        name="weights stay perturbed",
        bug=SharpensUnguarded,
        twin=SAM,
        models="SAM implementations",
        example=Example(args={"rho": 0.05}),
    ),
    Mutant(
        law="middleware.exceptions",
        name="the mode stays",
        bug=NoDropoutUnguarded,
        twin=NoDropout,
        models="model.eval() without finally",
    ),
    Mutant(
        law="middleware.exceptions",
        name="the micro-shard stays",
        bug=ShardsUnguarded,
        twin=Shards,
        models="counters without finally",
    ),
    Mutant(
        law="middleware.evaluation_weights",
        name="averages stay after an exception",
        bug=LendsUnguarded,
        twin=EMA,
        models="Open-Sora-Plan#186",
        example=EMA_ARGS,
    ),
    Mutant(
        law="middleware.evaluation_weights",
        name="weights are not taken back",
        bug=LendsInPlace,
        twin=EMA,
        models="Open-Sora-Plan#186",
        example=EMA_ARGS,
    ),
    Mutant(
        law="middleware.evaluation_weights",
        name="evaluation mode stays",
        bug=LendsEvaluating,
        twin=EMA,
        models="schnetpack#785",
        example=EMA_ARGS,
    ),
    Mutant(
        law="middleware.commuting",
        name="it is said to commute with clipping",
        bug=ClampsFirst,
        twin=ClampsBeside,
        models="an order that decides",
    ),
    Mutant(
        law="middleware.small_batches",
        name="the deviation of one record",
        bug=StandardisesUnbiased,
        twin=Standardises,
        models="std of one",
    ),
]
