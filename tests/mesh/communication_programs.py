"""What ranks do in the tests of communication savers: programs of `mesh_programs` with a saver, looked into."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
import torch.distributed as dist
from mesh_programs import made
from torch import Tensor

from mapsto import use
from mapsto.torch.mesh.sent import sent
from mapsto.torch.middleware.communication import summed
from mapsto.torch.middleware.communication_lowrank import PowerSGD
from mapsto.torch.placement import place

SIZES = {"Float": 4, "Double": 8, "Half": 2, "BFloat16": 2, "Int": 4, "Long": 8, "Byte": 1}


def recorded() -> list[dict[str, Any]]:
    """The collectives that torch's flight recorder saw on this rank."""
    found: list[dict[str, Any]] = json.loads(torch._C._distributed_c10d._dump_fr_trace_json()).get("entries", [])
    return found


def payload(entry: dict[str, Any]) -> int:
    """What is reduced or scattered, or what is gathered, in bytes."""
    side = "output" if "gather" in entry["profiling_name"] else "input"
    pairs = zip(entry[f"{side}_sizes"], entry[f"{side}_dtypes"], strict=True)
    return sum(math.prod(size) * SIZES[dtype] for size, dtype in pairs)


def traffic(case: dict[str, Any]) -> list[tuple[float, int]]:
    """(metric `bytes/step`, what the recorder saw) of each step but the first two, in which DDP sets itself up."""
    program, reader = made(case)
    found = []
    with reader.stream(0, case.get("steps", 5), **program.reader_args) as stream:
        for number, (_, batch) in enumerate(stream):
            before = len(recorded())
            told = program.step(batch)["bytes/step"]
            if number > 1:
                found.append((told, sum(map(payload, recorded()[before:]))))
    return found


def all_traffic(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: traffic(case) for name, case in cases.items()}


def gradients(program: Any, batches: Any) -> list[Tensor]:
    """Those of one pass, as copies; nothing is left."""
    state = program.state
    state.clear()
    program.grad(state, place(batches, state.device))
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in state.parameters]
    state.clear()
    return found


def rounding(dtypes: list[str], case: dict[str, Any]) -> dict[str, Any]:
    """By dtype the largest error of a gradient over its bound, R u times the sum of the absolute values."""
    worst: dict[str, Any] = {}
    exact, reader = made(case)
    batches = next(iter(batch for _, batch in _stream(reader, exact, 1)))
    wanted = gradients(exact, batches)
    for dtype in dtypes:
        program, _ = made({**case, "middleware": [use("compress_gradients", dtype=dtype)]})
        found = gradients(program, batches)
        program.state.mesh.synchronise(False)
        parts = gradients(program, batches)  # of this rank alone
        program.state.mesh.synchronise(True)
        for part in parts:
            dist.all_reduce(part.abs_())
        unit = dist.get_world_size() * (2.0**-8 if dtype == "bf16" else 2.0**-11)
        ratios = [((f - w).abs() / (unit * p + 1e-30)).max() for f, w, p in zip(found, wanted, parts, strict=True)]
        alike = [g.clone() for g in found]
        for one in alike:
            dist.broadcast(one, 0)
        worst[dtype] = {
            "over bound": float(torch.stack(ratios).max()),
            "same on all": all(torch.equal(a, b) for a, b in zip(alike, found, strict=True)),
            "differs": any(not torch.equal(f, w) for f, w in zip(found, wanted, strict=True)),
        }
    return worst


def _stream(reader: Any, program: Any, steps: int) -> Any:
    with reader.stream(0, steps, **program.reader_args) as stream:
        yield from stream


def ranges(rank_values: list[list[float]]) -> dict[str, list[float]]:
    """The sum of each rank's values in fp16, by the hook and by a plain cast."""
    mine = torch.tensor(rank_values[dist.get_rank()])
    plain = mine.half()
    dist.all_reduce(plain)
    return {"hook": summed(torch.float16, mine.clone(), dist.group.WORLD).wait().tolist(), "cast": plain.float().tolist()}


def low_rank(case: dict[str, Any], steps: int) -> dict[str, Any]:
    """Of PowerSGD: whether nothing is lost from step to step, and what a gradient that is not a number does."""
    program, reader = made(case)
    exact, _ = made({**case, "middleware": []})
    saver = next(m for m in program.middleware.values() if isinstance(m, PowerSGD))
    lost, far, alike = [], [], []
    with reader.stream(0, steps, **program.reader_args) as stream:
        for _, batch in stream:
            names = [m.name for m in saver.matrices]
            before = [_summed(m.error) for m in saver.matrices]
            wanted = dict(zip(exact.state.names, gradients(exact, batch), strict=True))
            found = dict(zip(program.state.names, gradients(program, batch), strict=True))
            for name, kept, matrix in zip(names, before, saver.matrices, strict=True):
                due = wanted[name].reshape(kept.shape) + kept
                got = found[name].reshape(kept.shape) + _summed(matrix.error)
                lost.append(float((got - due).norm() / due.norm()))
                far.append(float((found[name] - wanted[name]).norm() / wanted[name].norm()))
            for name in wanted.keys() - set(names):
                lost.append(float((found[name] - wanted[name]).norm() / wanted[name].norm()))
            theirs = {n: g.clone() for n, g in found.items()}
            for gradient in theirs.values():
                dist.broadcast(gradient, 0)
            alike.append(all(torch.equal(theirs[n], found[n]) for n in found))
            for one in (exact, program):
                one.state.step += 1
    errors = [m.error.clone() for m in saver.matrices]
    poisoned = [{**part, "input": part["input"] * (float("nan") if dist.get_rank() else 1.0)} for part in batch]
    spread = [bool(g.isnan().any()) for g in gradients(program, poisoned)]
    same = all(torch.equal(a, m.error) for a, m in zip(errors, saver.matrices, strict=True))
    return {"lost": max(lost), "far": max(far), "alike": all(alike), "spread": all(spread), "kept": same, "names": names}


def _of_the_first(tensors: list[Tensor]) -> list[Tensor]:
    found = [t.clone() for t in tensors]
    for tensor in found:
        dist.broadcast(tensor, 0)
    return found


def _summed(tensor: Tensor) -> Tensor:
    found = tensor.clone()
    dist.all_reduce(found)
    return found


def local_steps(case: dict[str, Any], steps: int, asks_at: int) -> dict[str, Any]:
    """Of a local saver: the weights of this rank after each step, what is told when, and what evaluation does to it."""
    program, reader = made(case)
    seen: dict[str, Any] = {"weights": [], "canonical": [], "told": [], "asked": [], "kept": [], "bytes": [], "evaluated": []}
    plain = reader.sequential()
    with reader.stream(0, steps, **program.reader_args) as stream:
        for number, (_, batch) in enumerate(stream):
            if number == asks_at and dist.get_rank() == 1:
                program.request_attention()
            before = sent.bytes
            metrics = program.step(batch)
            seen["bytes"].append((metrics.pop("bytes/step"), sent.bytes - before))
            seen["told"].append({n: (float(a), float(b)) for n, (a, b) in metrics.items()})
            seen["asked"].append(program.attention_requested)
            own = {n: p.detach().clone() for n, p in zip(program.state.names, program.state.parameters, strict=True)}
            with plain.stream(0, plain.batches_per_epoch, **program.reader_args) as evaluation:
                seen.setdefault("evaluation", []).append(program.evaluate(b for _, b in evaluation))
            with program.evaluating():
                evaluated = [p.detach().clone() for p in program.state.parameters]
            seen["evaluated"].append(all(torch.equal(a, b) for a, b in zip(_of_the_first(evaluated), evaluated, strict=True)))
            seen["canonical"].append(program.weights())
            seen["kept"].append(all(torch.equal(own[n], p) for n, p in program.model.named_parameters()))
            seen["weights"].append({n: w.numpy() for n, w in own.items()})
    return seen


def several(calls: dict[str, tuple[Any, tuple[Any, ...]]]) -> dict[str, Any]:
    """Several of these in one group of ranks."""
    return {name: function(*arguments) for name, (function, arguments) in calls.items()}


def refusals(cases: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The error of each."""
    found = {}
    for name, case in cases.items():
        try:
            made(case)
            found[name] = "built"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found
