"""Cutting a model into consecutive sections, which stages of a pipeline compute: as it declares, or as its forward runs.

A section takes the model's inputs, which every stage has, and the values that the section before it left.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ....core.errors import SpecError, nearest
from ..outline import outline

HOW = "declare pipeline_plan in its class, a method that returns its consecutive pieces (docs/kinds/layer.md)"
SCALARS = ("shape", "dtype", "device", "ndim", "is_cuda")
DRAWS = ("rand", "dropout", "bernoulli", "multinomial", "normal")


@dataclass
class Section:
    """call: (inputs by name, values) -> values; uses: names of the modules and parameters it needs; cost: parameters it
    multiplies with, roughly the time it takes; what: for people; steps: what is called in turn, nodes of a graph or pieces."""

    call: Callable[[dict[str, Any], tuple[Any, ...]], tuple[Any, ...]]
    uses: frozenset[str]
    cost: int
    what: str
    steps: tuple[Any, ...] = ()


def sections(model: nn.Module, stages: int, split: Sequence[str] | None) -> list[Section]:
    """The model in `stages` sections that cost about the same, or that begin where `split` says.

    Raises SpecError where it cannot be cut, naming what it lacks.
    """
    if split is not None and len(split) != stages - 1:
        raise SpecError(
            f"mesh.split: {stages} stages begin at {stages - 1} modules after the first, and {len(split)} are named"
        )
    return _declared(model, stages, split) if hasattr(model, "pipeline_plan") else _followed(model, stages, split)


def balanced(costs: Sequence[int], allowed: Iterable[int], parts: int) -> list[int] | None:
    """Where to cut a sequence so that the dearest of `parts` parts is cheapest: positions out of `allowed`, or None."""
    ends = [0, *sorted({i for i in allowed if 0 < i < len(costs)}), len(costs)]
    total = [0]
    for cost in costs:
        total.append(total[-1] + cost)
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for _ in range(parts):
        reached: dict[int, tuple[int, tuple[int, ...]]] = {}
        for end in ends:
            options = [(max(b, total[end] - total[at]), (*cuts, end)) for at, (b, cuts) in best.items() if at < end]
            if options:
                reached[end] = min(options)
        best = reached
    found = best.get(len(costs))
    return None if found is None else list(found[1][:-1])


# -- declared ------------------------------------------------------------------------------------------------------------
def _declared(model: nn.Module, stages: int, split: Sequence[str] | None) -> list[Section]:
    """From pieces: modules of the model, or (function, names of what it uses of the model)."""
    said = f"{type(model).__name__}.pipeline_plan"
    names = {id(m): n for n, m in model.named_modules()}
    named = (*model.named_modules(), *model.named_parameters(), *model.named_buffers())
    known = {name for name, _ in named if name}
    pieces: list[tuple[Callable[..., Any], frozenset[str]]] = []
    for i, piece in enumerate(model.pipeline_plan()):  # type: ignore[operator]
        call, *uses = piece if isinstance(piece, tuple) else (piece, names.get(id(piece)))
        if not callable(call) or (not isinstance(piece, tuple) and uses == [None]):
            raise SpecError(f"{said}: piece {i} is neither a module of the model nor (function, names of what it uses)")
        for name in uses:
            if name not in known:
                raise SpecError(f"{said}: piece {i} uses {name!r}; {nearest(str(name), known)}")
        pieces.append((call, frozenset(map(str, uses))))
    if len(pieces) < stages:
        raise SpecError(f"{said}: {len(pieces)} pieces do not make {stages} stages")
    costs = [sum(_cost(model, name) for name in uses) for _, uses in pieces]
    if split is None:
        cuts = balanced(costs, range(len(pieces)), stages)
    else:
        begins = {name: i for i, (_, uses) in reversed(list(enumerate(pieces))) for name in uses}
        cuts = [begins[_known(name, begins)] for name in split]
        _ascending(cuts, split)
    assert cuts is not None
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(pieces)], strict=True):
        own = pieces[start:stop]
        needs = frozenset(name for _, names_used in own for name in names_used)
        calls = [call for call, _ in own]
        found.append(Section(_chain(calls, start == 0), needs, sum(costs[start:stop]), _words(needs), tuple(calls)))
    return found


def _chain(calls: Sequence[Callable[..., Any]], first: bool) -> Callable[[dict[str, Any], tuple[Any, ...]], tuple[Any, ...]]:
    def run(inputs: dict[str, Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
        for i, call in enumerate(calls):
            result = call(*inputs.values()) if first and i == 0 else call(*values)
            values = result if type(result) is tuple else (result,)
        return values

    return run


# -- followed ------------------------------------------------------------------------------------------------------------
def _followed(model: nn.Module, stages: int, split: Sequence[str] | None) -> list[Section]:
    """The sections that a model's forward passes through one after another, found in its traced graph."""
    try:
        graph = outline(model)
    except SpecError as error:
        raise SpecError(f"mesh.pipeline: {error}: {HOW}") from error
    free = _free(graph)
    body = [n for n in graph.nodes if n not in free and n.op not in ("placeholder", "get_attr", "output")]
    costs = [_node_cost(model, node) for node in body]
    live = [_live(body, i, graph) for i in range(len(body) + 1)]
    scalars = _scalars(graph)
    allowed = [i for i in range(1, len(body)) if live[i] and not any(n in scalars for n in live[i])]
    if split is not None:
        begins: dict[str, int] = {}
        for i, node in enumerate(body):
            if node.op == "call_module":
                path = str(node.target).split(".")
                for depth in range(len(path)):
                    begins.setdefault(".".join(path[: depth + 1]), i)
        cuts: list[int] | None = [begins[_known(name, begins)] for name in split]
        assert cuts is not None
        _ascending(cuts, split)
        for cut, name in zip(cuts, split, strict=True):
            if held := [n for n in live[cut] if n in scalars]:
                raise SpecError(
                    f"mesh.split: a size ({held[0]}) that is computed before {name!r} is used after it, and tensors travel "
                    f"between stages: take it from the inputs, or {HOW}"
                )
    else:
        cuts = None
        for most in sorted({len(live[i]) for i in allowed}):  # as few values as can be travel between stages
            cuts = balanced(costs, [i for i in allowed if len(live[i]) <= most], stages)
            if cuts is not None:
                break
    if cuts is None:
        raise SpecError(
            f"mesh.pipeline: {type(model).__name__} cannot be cut into {stages} stages: its forward calls "
            f"{sum(n.op == 'call_module' for n in body)} modules and can be cut at {len(allowed)} places; {HOW}"
        )
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
        found.append(_section(model, graph, body[start:stop], live[start], live[stop], free, sum(costs[start:stop])))
    return found


def _section(
    model: nn.Module,
    graph: fx.Graph,
    own: Sequence[fx.Node],
    before: Sequence[fx.Node],
    after: Sequence[fx.Node],
    free: set[fx.Node],
    cost: int,
) -> Section:
    """The module that computes `own` nodes of the graph from the inputs and the values of `before`, and leaves `after`."""
    made, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    names = [str(n.target) for n in graph.nodes if n.op == "placeholder"]
    for node in graph.nodes:
        if node.op == "placeholder":
            copies[node] = made.placeholder(str(node.target))
    for i, node in enumerate(before):
        copies[node] = made.placeholder(f"value_{i}")

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            if node not in free and node.op != "get_attr" and node not in mine:
                raise SpecError(f"mesh.pipeline: {node} is needed after the stage that computes it")
            copies[node] = made.node_copy(node, copied)
        return copies[node]

    mine = set(own)
    for node in own:
        copied(node)
    (output,) = [n for n in graph.nodes if n.op == "output"]
    whole = not after
    made.output(fx.map_arg(output.args[0], copied) if whole else tuple(map(copied, after)))
    module = fx.GraphModule(model, made, class_name="Section")
    module.train(model.training)
    uses = frozenset(str(n.target) for n in made.nodes if n.op in ("call_module", "get_attr"))

    def run(inputs: dict[str, Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
        result = module(*[inputs[name] for name in names], *values)
        return (result,) if whole else result

    return Section(run, uses, cost, _words(uses), tuple(made.nodes))


def _free(graph: fx.Graph) -> set[fx.Node]:
    """What depends on nothing but the inputs and draws nothing: each stage computes it for itself."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op not in ("call_function", "call_method"):
            continue
        name = str(getattr(node.target, "__name__", node.target))
        if any(word in name for word in DRAWS) or (name.endswith("_") and not name.endswith("__")):
            continue
        if all(n in found or n.op == "placeholder" for n in node.all_input_nodes):
            found.add(node)
    return found


def _live(body: Sequence[fx.Node], cut: int, graph: fx.Graph) -> list[fx.Node]:
    """The values of nodes before the cut that are used at or after it."""
    later = set(body[cut:]) | {n for n in graph.nodes if n.op == "output"}
    return [node for node in body[:cut] if any(user in later for user in node.users)] if cut < len(body) else []


def _scalars(graph: fx.Graph) -> set[fx.Node]:
    """Sizes and the like, which are no tensors and do not travel between stages."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        reads = node.target is builtins.getattr and node.args[1] in SCALARS
        sizes = node.op == "call_method" and node.target in ("size", "dim", "numel", "__len__")
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        derived = node.op == "call_function" and sources and all(n in found for n in sources)
        if reads or sizes or node.target is builtins.len or (derived and node.target is not None and _plain(node)):
            found.add(node)
    return found


def _plain(node: fx.Node) -> bool:
    """Whether a function of sizes gives a size again."""
    return getattr(node.target, "__module__", "") in ("_operator", "operator", "builtins") or node.target is operator.getitem


# -- what things cost, and words ---------------------------------------------------------------------------------------
def _cost(model: nn.Module, name: str) -> int:
    """The parameters of a module or parameter that are multiplied with; a look-up in a table costs nothing."""
    found = dict(model.named_parameters(remove_duplicate=False)).get(name)
    if found is not None:
        return found.numel()
    try:
        module = model.get_submodule(name)
    except AttributeError:  # a buffer
        return 0
    tables = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    return sum(p.numel() for p in module.parameters() if id(p) not in tables)


def _node_cost(model: nn.Module, node: fx.Node) -> int:
    read = sum(_cost(model, str(n.target)) for n in node.all_input_nodes if n.op == "get_attr")
    return read + (_cost(model, str(node.target)) if node.op == "call_module" else 0)


def _known(name: str, begins: dict[str, int]) -> str:
    if name not in begins:
        raise SpecError(f"mesh.split: no stage can begin at {name!r}; {nearest(name, begins)}")
    return name


def _ascending(cuts: Sequence[int], split: Sequence[str]) -> None:
    if 0 in cuts:
        raise SpecError(f"mesh.split: the first stage begins at {split[list(cuts).index(0)]!r}; name where later ones do")
    if sorted({*cuts}) != list(cuts):
        raise SpecError(f"mesh.split: {', '.join(split)} do not stand in the order in which the model calls them")


def _words(uses: Iterable[str]) -> str:
    names = sorted(uses, key=lambda name: [part.zfill(6) if part.isdigit() else part for part in name.split(".")])
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])} ... {', '.join(names[-2:])} ({len(names)})"
