"""The plan of tensor parallelism: which products are cut over ranks, and how; stated, declared or derived from names.

A column-wise product gives each rank some of its outputs, which a row-wise one takes as inputs and sums over ranks
(Shoeybi et al. 2019, Megatron-LM): between the two nothing is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ....core.errors import SpecError, nearest
from ...middleware.matching import matching_modules
from ..outline import reads

Style = Literal["colwise", "colwise_gather", "rowwise", "replicate"]
STYLES = ("colwise", "colwise_gather", "rowwise", "replicate")
"""colwise: outputs stay cut, as a DTensor; colwise_gather: outputs are whole again; rowwise: inputs are cut, outputs whole;
replicate: weights whole, for a module between the two, such as a normalisation of heads."""

QUERY = re.compile(r"(w?q|q_?proj|(to_?)q|q_?lin|query(_proj)?)$")
KEY_VALUE = re.compile(r"(w?[kv]|[kv]_?proj|(to_?)[kv]|[kv]_?lin|(key|value)(_proj)?)$")
FUSED = re.compile(r"(w?qkv(_?proj)?|to_qkv|c_attn|query_key_value|attn_qkv|w?kv(_?proj)?|to_kv|in_proj)$", re.IGNORECASE)
ATTENTION_OUT = re.compile(r"(w?o|o_?proj|out(_?proj)?|out_?lin|to_out|c_proj|proj|dense|wo)$")
UP = re.compile(r"(fc_?(1|in)|w1|w3|linear_?1|lin_?1|c_fc|up(_?proj)?|gate(_?proj)?|dense_h_to_4h|wi(_[01])?|expand)$")
DOWN = re.compile(r"(fc_?(2|out)|w2|linear_?2|lin_?2|c_proj|down(_?proj)?|dense_4h_to_h|wo|contract)$")
MLP = re.compile(r"(mlp|ffn?|feed_?forward|net)$")
TOKENS = re.compile(r"(wte|tok(en)?(_?emb(eddings?|ed)?)?|embed_tokens|word_embeddings?|tok_embeddings)$")
HEAD = re.compile(r"(lm_head|output|unembed|to_logits|decoder|embed_out)$")
HEADS = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads")
KEY_HEADS = ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "kv_heads", "n_kv_head", "n_head_kv")


Cut = tuple[str, dict[str, str]] | str | None
"""What was known by its names and the styles of its parts; or why it is left whole; or None: something else."""


@dataclass
class Plan:
    """styles: of modules by name; notes: what was found, for people; left: what was not cut, and why."""

    styles: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def planned(model: nn.Module, stated: Mapping[str, str] | None, ranks: int) -> Plan:
    """The plan for a model on `ranks` tensor ranks: as stated by patterns, or declared by its modules and derived elsewhere.

    Raises SpecError where a pattern or a style is unknown, a size does not divide, or nothing can be cut.
    """
    if stated is not None:
        found = Plan(_matched(model, stated, "mesh.tensor_plan"), ["as stated in mesh.tensor_plan"])
    else:
        found = _declared(model)
        _derive(model, found, ranks)
    _agree(model, found, stated is None)
    for name, style in found.styles.items():
        _fits(name, model.get_submodule(name), style, ranks)
    if not any(style != "replicate" for style in found.styles.values()):
        said = "; ".join(found.left) or "no attention, MLP or embedding was known by its names"
        raise SpecError(
            f"mesh.tensor: nothing of {type(model).__name__} can be cut over {ranks} ranks ({said}). State a plan, such as "
            "mesh.tensor_plan: {'*.up': colwise, '*.down': rowwise}, or declare tensor_plan in the layer's class"
        )
    return found


def _matched(model: nn.Module, stated: Mapping[str, str], where: str, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for pattern, style in stated.items():
        if style not in STYLES:
            raise SpecError(f"{where}: {style!r} for {pattern!r} is no style; {nearest(str(style), STYLES)}")
        for name in matching_modules(model, [pattern], where):
            found.setdefault(f"{prefix}{name}", style)
    return found


def _declared(model: nn.Module) -> Plan:
    """What modules declare by an attribute or method `tensor_plan`; what lies within such a module is its own affair."""
    found = Plan()
    for name, module in _outermost(model, lambda m: hasattr(m, "tensor_plan")):
        own: Any = module.tensor_plan
        prefix = f"{name}." if name else ""
        said = f"{type(module).__name__}.tensor_plan"
        found.styles.update(_matched(module, own() if callable(own) else own, said, prefix))
        if (note := f"as declared by {said}") not in found.notes:
            found.notes.append(note)
    return found


def _outermost(module: nn.Module, wanted: Any, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    if wanted(module):
        yield name, module
        return
    for own, child in module.named_children():
        yield from _outermost(child, wanted, f"{name}.{own}" if name else own)


# -- derived -----------------------------------------------------------------------------------------------------------
def _derive(model: nn.Module, found: Plan, ranks: int) -> None:
    own = [name for name, _ in _outermost(model, lambda m: hasattr(m, "tensor_plan"))]
    for name, module in model.named_modules():
        if any(name == n or not n or name.startswith(n + ".") for n in own):
            continue
        for derived in (_attention, _mlp, _sequence):
            _add(found, name, module, derived, ranks)
    for name, module in model.named_modules():
        if name not in found.styles and not any(not n or name.startswith(n + ".") for n in own):
            _ends(model, found, name, module, ranks)


def _add(found: Plan, name: str, module: nn.Module, derived: Any, ranks: int) -> None:
    cut = derived(module, ranks, where := name or type(module).__name__)
    if cut is None:
        return
    if isinstance(cut, str):
        found.left.append(f"{where}: {cut}")
        return
    what, styles = cut
    names = {f"{name}.{n}" if name else n: style for n, style in styles.items()}
    if not names.keys() & found.styles.keys():
        found.styles.update(names)
        found.notes.append(f"{where}: {what}: " + ", ".join(f"{n} {s}" for n, s in styles.items()))


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {n: m for n, m in module.named_children() if isinstance(m, nn.Linear)}


def _attention(module: nn.Module, ranks: int, where: str) -> Cut:
    """Queries, keys and values by columns, which are whole heads; the product after them by rows."""
    if isinstance(module, nn.MultiheadAttention):
        return f"{type(module).__name__} keeps queries, keys and values in one parameter that it reads itself: computed whole"
    own = _linears(module)
    out = [n for n in own if ATTENTION_OUT.fullmatch(n)]
    fused = [n for n in own if FUSED.fullmatch(n)]
    query, others = [n for n in own if QUERY.fullmatch(n)], [n for n in own if KEY_VALUE.fullmatch(n)]
    if len(out) != 1 or not (fused or (len(query) == 1 and len(others) == 2)):
        return None
    if fused:  # whose columns are q, k and v, each of all heads: after cutting them no rank would hold whole heads
        styles = dict.fromkeys([*query, *fused], "colwise_gather") | {out[0]: "rowwise"}
        return "attention of fused projections, gathered, its heads computed on every rank", styles
    if own[query[0]].out_features != own[out[0]].in_features:
        return f"attention: {query[0]} gives {own[query[0]].out_features}, and {out[0]} takes {own[out[0]].in_features}"
    for attribute in (*HEADS, *KEY_HEADS):
        heads = getattr(module, attribute, None)
        if isinstance(heads, int) and not isinstance(heads, bool) and heads % ranks:
            raise SpecError(
                f"mesh.tensor: {where} has {attribute} {heads}, which {ranks} ranks do not divide: choose a divisor, or state "
                "mesh.tensor_plan without this attention"
            )
    drops = [n for n, v in vars(module).items() if "drop" in n and isinstance(v, float) and v > 0]
    if drops:
        return f"attention: its dropout ({drops[0]}) is no module, so that ranks would draw the same for different heads"
    between = {n: "replicate" for n, m in module.named_children() if n not in own and _has_own(m)}
    return "attention", {**dict.fromkeys([*query, *others], "colwise"), out[0]: "rowwise", **between}


def _has_own(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _mlp(module: nn.Module, ranks: int, where: str) -> Cut:  # noqa: ARG001
    """The products into the hidden layer by columns, the one out of it by rows."""
    own = _linears(module)
    down = [n for n in own if DOWN.fullmatch(n)]
    up = [n for n in own if UP.fullmatch(n)]
    if len(down) != 1 or not up:
        return None
    if wrong := [n for n in up if own[n].out_features != own[down[0]].in_features]:
        return f"MLP: {wrong[0]} gives {own[wrong[0]].out_features}, and {down[0]} takes {own[down[0]].in_features}"
    return "MLP", dict.fromkeys(up, "colwise") | {down[0]: "rowwise"}


def _sequence(module: nn.Module, ranks: int, where: str) -> Cut:  # noqa: ARG001
    """Two products with nothing that has weights between them, in a sequence."""
    if type(module) is not nn.Sequential:
        return None
    own = list(_linears(module).items())
    others = [m for m in module.children() if not isinstance(m, nn.Linear) and next(m.parameters(), None) is not None]
    if len(own) != 2 or others or own[0][1].out_features != own[1][1].in_features:
        return None
    if own[0][1].out_features <= own[0][1].in_features:  # a bottleneck or a classifier gains little
        return None
    return "MLP", {own[0][0]: "colwise", own[1][0]: "rowwise"}


def _ends(model: nn.Module, found: Plan, name: str, module: nn.Module, ranks: int) -> None:
    """Token embeddings and the product with the vocabulary, where their weights are used by calling them alone."""
    last = name.rpartition(".")[2]
    embedding = isinstance(module, nn.Embedding) and TOKENS.fullmatch(last)
    if not embedding and not (isinstance(module, nn.Linear) and HEAD.fullmatch(last)):
        return
    size: Any = module.num_embeddings if isinstance(module, nn.Embedding) else module.out_features
    if size % ranks:
        found.left.append(f"{name}: a vocabulary of {size} cannot be cut into {ranks} equal parts")
        return
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.sparse):
        found.left.append(f"{name}: an embedding with max_norm or sparse gradients stays whole")
        return
    if why := reads(model, name):
        found.left.append(f"{name}: {why}")
        return
    found.styles[name] = "rowwise" if embedding else "colwise_gather"
    found.notes.append(f"{name}: {'embedding' if embedding else 'output head'}: {found.styles[name]}")


def _fits(name: str, module: nn.Module, style: str, ranks: int) -> None:
    """Raises SpecError where a module cannot be cut in this style into equal parts."""
    if style == "replicate":
        return
    if not isinstance(module, (nn.Linear, nn.Embedding)):
        raise SpecError(f"mesh.tensor: {name!r} is a {type(module).__name__}; {style} cuts nn.Linear and nn.Embedding")
    shape = module.weight.shape
    size = shape[axis(module, style) or 0]
    if size % ranks:
        raise SpecError(f"mesh.tensor: {name!r} {list(shape)} by {style} has {size} to cut, which {ranks} ranks do not divide")


def axis(module: nn.Module, style: str | None) -> int | None:
    """The axis along which a style cuts a module's weight; None where it stays whole."""
    if style in (None, "replicate"):
        return None
    return 0 if (style == "rowwise") == isinstance(module, nn.Embedding) else 1


def _agree(model: nn.Module, found: Plan, derived: bool) -> None:
    """Weights that several modules share are cut alike, or not at all."""
    for group in tied(model):
        owners = [name.rpartition(".")[0] for name in group]
        cuts = {axis(model.get_submodule(n), found.styles.get(n)) if n in found.styles else -1 for n in owners}
        if len(cuts) == 1:
            continue
        said = f"{' and '.join(group)} are one weight, which is not cut alike where it is used"
        if not derived:
            raise SpecError(f"mesh.tensor_plan: {said}")
        for name in owners:
            found.styles.pop(name, None)
        found.notes = [note for note in found.notes if note.partition(":")[0] not in owners]
        found.left.append(said)


def tied(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]
