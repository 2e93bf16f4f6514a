"""Optimizers with a planted bug, and their correct twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mapsto
from mapsto.core.laws import Example
from mapsto.formulas import optimizers

from . import Mutant


class Descent(torch.optim.Optimizer):
    """Momentum with decoupled decay, one parameter at a time; what the mutants below change is in methods."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, group)
        return loss

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(state["m"].mul_(group["momentum"]).add_(g), alpha=group["lr"])


def _descent(
    w: Tensor, g: Tensor, t: int, memory: dict[str, Any], *, lr: float, momentum: float, weight_decay: float
) -> Tensor:
    memory["m"] = momentum * memory.get("m", 0.0) + g
    return w * (1 - lr * weight_decay) - lr * memory["m"]


class DecayAfter(Descent):
    """The decay comes after the step: it shrinks the step as well."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p)
        p.sub_(state["m"].mul_(group["momentum"]).add_(g), alpha=group["lr"])
        p.mul_(1 - group["lr"] * group["weight_decay"])


class Corrected(torch.optim.Optimizer):
    """Adam without weight decay; `late` counts steps from zero in the bias correction."""

    late, changes_after = 0, 1000

    def __init__(self, params: Any, lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, group)
        return loss

    def update(self, p: Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[p], group["betas"]
        if not state:
            state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        state["t"] += 1
        state["m"].lerp_(p.grad, 1 - b1)
        state["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
        t = state["t"] + self.late
        lr = group["lr"] * (1.0 if t <= self.changes_after else 1.001)
        p.addcdiv_(state["m"] / (1 - b1**t), (state["v"] / (1 - b2**t)).sqrt().add_(group["eps"]), value=-lr)


class CorrectedLate(Corrected):
    late = 1


class CorrectedChanges(Corrected):
    """Right for six updates: descent, and any test of five, sees nothing (RAdam has such a change)."""

    changes_after = 6


class Normalised(Descent):
    """The step is divided by the norm of the gradient."""

    floor = 1e-12

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        p.sub_(g / g.norm().clamp(min=self.floor), alpha=group["lr"])


class NormalisedByZero(Normalised):
    floor = 0.0


class Uphill(Normalised):
    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        p.add_(g / g.norm().clamp(min=self.floor), alpha=group["lr"])


# -- resuming
class Warming(Descent):
    """A rate that grows with a count kept in the state of each parameter."""

    def count(self, p: Tensor) -> int:
        self.state[p]["count"] = self.state[p].get("count", 0) + 1
        return int(self.state[p]["count"])

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        p.sub_(g, alpha=group["lr"] * min(1.0, self.count(p) / 5))


class WarmingByAttribute(Warming):
    """The count stands on the optimizer: lost in every checkpoint."""

    counts: dict[int, int]

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr)
        self.counts = {}

    def count(self, p: Tensor) -> int:
        self.counts[id(p)] = self.counts.get(id(p), 0) + 1
        return self.counts[id(p)]


class Lookback(Descent):
    """Pulled towards a slow copy, which is in the state."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["slow"] = p.clone()
        p.sub_(g, alpha=group["lr"])
        p.lerp_(state["slow"].lerp_(p, 0.5), 0.2)


class LookbackRestarts(Lookback):
    """After loading, the slow copy begins at the weights again (davda54/sam#39, Lookahead)."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state.clear()


class Precise(Descent):
    """Momentum in float32 beside any weights, and kept so when it is loaded."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p, dtype=torch.float32)
        p.sub_(state["m"].mul_(group["momentum"]).add_(g).to(p.dtype), alpha=group["lr"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        for i, held in state_dict["state"].items():
            self.state[parameters[i]]["m"] = held["m"].clone()


class PreciseCast(Precise):
    """The same, loaded by the framework's load_state_dict, which casts to the weights' dtype (pytorch#43706)."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        torch.optim.Optimizer.load_state_dict(self, state_dict)


# -- missing gradients, groups, what must not be touched
class DecaysAll(Descent):
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
        return super().step(closure)


class Coasts(Descent):
    """Momentum goes on without a gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and self.state[p]:
                    p.sub_(self.state[p]["m"], alpha=group["lr"])
        return super().step(closure)


class Scaled(Descent):
    """The step is scaled by the largest gradient; an empty tensor has none."""

    def largest(self, g: Tensor) -> Tensor:
        return g.abs().max() if g.numel() else g.new_ones(())

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        p.sub_(g / (1 + self.largest(g)), alpha=group["lr"])


class ScaledEmpty(Scaled):
    def largest(self, g: Tensor) -> Tensor:
        return g.abs().max()


class FirstGroup(Descent):
    """The decay is that of the first group, for all."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super().update(p, g, {**group, "weight_decay": self.param_groups[0]["weight_decay"]})


class Defaulted(Descent):
    """The rate is that of the constructor, whatever the group (and a schedule) says."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super().update(p, g, {**group, "lr": self.defaults["lr"]})


class KeepsTheirs(Descent):
    """The first momentum is the tensor that is .grad."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if state:
            super().update(p, g, group)
            return
        state["m"] = g
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(g, alpha=group["lr"])


class CoastingByDefault(Descent):
    """The momentum is that of the constructor, whatever the group says."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super().update(p, g, {**group, "momentum": self.defaults["momentum"]})


class Floored(Descent):
    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super().update(p, g, {**group, "lr": max(group["lr"], 1e-6)})


class Coupled(Descent):
    """L2 decay, in a gradient of its own."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super().update(p, g.add(p, alpha=group["weight_decay"]), {**group, "weight_decay": 0.0})


class CoupledInPlace(Descent):
    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super().update(p, g.add_(p, alpha=group["weight_decay"]), {**group, "weight_decay": 0.0})


class ClosureWithoutGradients(Descent):
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure is not None else None
        super().step()
        return loss


class ClosureTwice(Descent):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        super().step(closure)
        return None if closure is None else closure()


class LossForgotten(Descent):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        super().step(closure)


# -- contexts
class SkipsItself(Descent):
    """It handles GradScaler's overflow by itself: nothing happens before the check."""

    _step_supports_amp_scaling = True
    early = False

    divides = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.early:
            self.counting(parameters)
        if bool(getattr(self, "found_inf", False)):
            return None
        if not self.early:
            self.counting(parameters)
        for p in parameters:
            if getattr(self, "grad_scale", None) is not None and self.divides:
                p.grad.div_(self.grad_scale)
        return super().step(closure)

    def counting(self, parameters: list[Tensor]) -> None:
        for p in parameters:
            self.state[p].setdefault("m", torch.zeros_like(p))
            self.state[p]["t"] = self.state[p].get("t", 0) + 1


class CountsSkipped(SkipsItself):
    early = True


class Undivided(SkipsItself):
    divides = False


class Trust(Descent):
    """LARS (You et al. 2017): a step in proportion to the norm of the weight; a DTensor's norm is that of the whole."""

    def norms(self, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        return self.whole(p.norm()), self.whole(g.norm())

    @staticmethod
    def whole(x: Any) -> Tensor:
        return x.full_tensor() if hasattr(x, "full_tensor") else x

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        weight, grad = self.norms(p, g)
        p.sub_(g * (weight / grad).item(), alpha=group["lr"])


class TrustOfShards(Trust):
    def norms(self, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        mine, slope = (x.to_local() if hasattr(x, "to_local") else x for x in (p, g))
        return mine.norm(), slope.norm() + 1e-12


class Fast(Descent):
    """A loop and a foreach path of one rule."""

    eps = 0.0

    def __init__(self, params: Any, lr: float | Tensor = 0.1, foreach: bool = False) -> None:
        torch.optim.Optimizer.__init__(self, params, {"lr": lr, "foreach": foreach})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            own = [p for p in group["params"] if p.grad is not None]
            slopes = [p.grad / (1 + p.grad.abs()) for p in own]
            if group["foreach"]:
                steps = torch._foreach_mul([g / (1 + self.eps) for g in slopes], self.rate(group))
                torch._foreach_sub_(own, steps)
            else:
                for p, g in zip(own, slopes, strict=True):
                    p.sub_(g * self.rate(group))

    def rate(self, group: dict[str, Any]) -> Any:
        return group["lr"]


class FastOther(Fast):
    eps = 1e-6


class FastFloats(Fast):
    """A tensor rate is rounded to float32 on its way."""

    def rate(self, group: dict[str, Any]) -> Any:
        return float(group["lr"].float()) if isinstance(group["lr"], Tensor) else group["lr"]


class Adamic(torch.optim.AdamW):
    """AdamW, whose compiled step counts in float32: at large rates this shows, and is right."""


class AdamicCompiled(Adamic):
    """A compiled step of another epsilon."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["eps"] = 1e-4 if torch.compiler.is_compiling() else 1e-8
        return super().step(closure)


class Compensated(Descent):
    """Kahan summation: what rounding took is kept and added to the next update."""

    adds_back = True

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["lost"] = torch.zeros_like(p)
        wanted = g.mul(-group["lr"])
        if self.adds_back:
            wanted.add_(state["lost"])
        before = p.clone()
        p.add_(wanted)
        state["lost"] = wanted - (p - before)


class CompensatedNever(Compensated):
    adds_back = False


class Squares(Descent):
    """RMSprop of complex gradients, by |g|^2."""

    def square(self, g: Tensor) -> Tensor:
        return torch.view_as_complex(torch.view_as_real(g) ** 2) if g.is_complex() else g * g

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["v"] = torch.zeros_like(p)
        state["v"].mul_(0.9).add_(self.square(g), alpha=0.1)
        if p.is_complex():
            step = torch.view_as_real(g) / (torch.view_as_real(state["v"]).sqrt() + 1e-8)
            p.sub_(torch.view_as_complex(step), alpha=group["lr"])
        else:
            p.sub_(g / (state["v"].sqrt() + 1e-8), alpha=group["lr"])


class SquaresWithoutParts(Squares):
    def square(self, g: Tensor) -> Tensor:
        product = g * g.conj() if g.is_complex() else g * g
        return torch.complex(product.real, product.real) if g.is_complex() else product


class Rows(Descent):
    """Adagrad on rows: a sparse gradient is coalesced, then squared."""

    coalesces = True

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["sum"] = torch.zeros_like(p)
        if g.is_sparse:
            g = g.coalesce() if self.coalesces else g
            index, values = g._indices()[0], g._values()
            state["sum"].index_add_(0, index, values * values)
            p.index_add_(0, index, -group["lr"] * values / (state["sum"][index].sqrt() + 1e-10))
        else:
            state["sum"].addcmul_(g, g)
            p.sub_(group["lr"] * g / (state["sum"].sqrt() + 1e-10))


class RowsTwice(Rows):
    coalesces = False


for trusted in (Trust, TrustOfShards):  # rank workers find these by their import path
    mapsto.example(trusted, args={"lr": 0.05})

KNOWN = Example(more={"formula": _descent})
ADAM = Example(more={"formula": optimizers.adam})
PLAIN = Example()


def _mutant(law: str, name: str, bug: Any, twin: Any, models: str, example: Example = PLAIN) -> Mutant:
    return Mutant(law=f"optimizer.{law}", name=name, bug=bug, twin=twin, models=models, example=example)


MUTANTS = [
    _mutant("formula", "decay after the step", DecayAfter, Descent, "a decay that shrinks the step as well", KNOWN),
    _mutant("formula", "bias correction counts one too many", CorrectedLate, Corrected, "bias correction", ADAM),
    _mutant("formula", "another rule from the seventh update on", CorrectedChanges, Corrected, "RAdam's change of rule", ADAM),
    _mutant("descends", "0 / 0 where the gradient is zero", NormalisedByZero, Normalised, "a norm without eps"),
    _mutant("descends", "a sign", Uphill, Normalised, "a sign error"),
    _mutant("resume", "count in an attribute", WarmingByAttribute, Warming, "torchtitan#4615"),
    _mutant("resume", "loading clears the slow copy", LookbackRestarts, Lookback, "davda54/sam#39"),
    _mutant("resume_low_precision", "float32 state cast to bfloat16", PreciseCast, Precise, "pytorch#43706"),
    _mutant("missing_gradients", "decay without a gradient", DecaysAll, Descent, "pytorch#100701"),
    _mutant("missing_gradients", "momentum without a gradient", Coasts, Descent, "pytorch#100701"),
    _mutant("missing_gradients", "the largest of nothing", ScaledEmpty, Scaled, "a parameter of size zero"),
    _mutant("groups", "decay of the first group for all", FirstGroup, Descent, "group option ignored"),
    _mutant("groups", "rate of the constructor for all", Defaulted, Descent, "group option ignored"),
    _mutant("groups", "momentum of the constructor for all", CoastingByDefault, Descent, "group option ignored"),
    _mutant("groups", "lr=0 does not freeze", Floored, Descent, "a floor under the rate"),
    _mutant("untouched", "decay written into .grad", CoupledInPlace, Coupled, "weight decay written into grad"),
    _mutant("untouched", "the gradient is kept as the momentum", KeepsTheirs, Descent, "SGD without its clone"),
    _mutant("untouched", "closure called without gradients", ClosureWithoutGradients, Descent, "no enable_grad"),
    _mutant("untouched", "closure called twice", ClosureTwice, Descent, "a closure that draws data twice"),
    _mutant("untouched", "the loss is not returned", LossForgotten, Descent, "step returns None"),
    _mutant("loss_scaling", "count moves in a skipped step", CountsSkipped, SkipsItself, "pytorch#67590"),
    _mutant("loss_scaling", "scale not divided out", Undivided, SkipsItself, "a fused step that ignores grad_scale"),
    _mutant("sharded", "norm of the local shard", TrustOfShards, Trust, "fairscale#767, Megatron-LM#6489"),
    _mutant("kernels", "another eps in foreach", FastOther, Fast, "kernel divergence"),
    _mutant("kernels", "a tensor rate loses bits", FastFloats, Fast, "a tensor lr read as float32"),
    _mutant("kernels", "another eps when compiled", AdamicCompiled, Adamic, "a compiled step", Example(args={"lr": 0.05})),
    _mutant(
        "low_precision",
        "compensation is never added back",
        CompensatedNever,
        Compensated,
        "lost updates",
        Example(tags=frozenset({"low_precision"})),
    ),
    _mutant(
        "complex",
        "both parts by the modulus",
        SquaresWithoutParts,
        Squares,
        "g * conj(g) instead of parts",
        Example(tags=frozenset({"complex"})),
    ),
    _mutant(
        "sparse",
        "an index that comes twice is not coalesced",
        RowsTwice,
        Rows,
        "sparse gradients uncoalesced",
        Example(tags=frozenset({"sparse"})),
    ),
]
