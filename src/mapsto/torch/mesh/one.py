"""What a middleware may ask of the mesh, whatever it is; the answers of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class OneProcess:
    """One process alone: nothing is exchanged.

    rank, world: this process among all; micro_shards: parts of a global batch, of which `own` are this rank's;
    lockstep: whether all ranks must make the same number of passes, so that none may leave an empty one out;
    absent: whether the micro-shard being computed is a stand-in, which weighs nothing; wants_attention: whether this rank
    requests the attention of all, such as to stop; replicas: the group of ranks that hold the same of other copies of the
    model, where these step by themselves and a middleware brings them together; pipeline_forward: None, or what takes
    (state, batch, loss) in the place of a pass, which comes later with those of other micro-batches.
    """

    rank, world = 0, 1
    micro_shards = 1
    own: tuple[int, ...] = (0,)
    lockstep = False
    absent = False
    wants_attention = False
    replicas: Any = None
    pipeline_forward: Any = None

    def __init__(self) -> None:
        self._pending = 0

    @contextmanager
    def pending(self, more: bool = True) -> Iterator[None]:
        """Within it gradients need not be reduced: another pass of the same step follows (`more`)."""
        if not more:
            yield
            return
        self._pending += 1
        if self._pending == 1:
            self.synchronise(False)
        try:
            yield
        finally:
            self._pending -= 1
            if self._pending == 0:
                self.synchronise(True)

    def calling(self, compute: Callable[[], T]) -> T:
        """What `compute` gives, which may call the model or parts of it outside of a program's loss; all ranks call it."""
        return compute()

    def synchronise(self, wanted: bool) -> None:
        """Whether the next backward pass reduces gradients over ranks."""

    def agree(self, flag: Tensor) -> Tensor:
        """The largest of a flag over the ranks that hold different gradients."""
        return flag

    def norm(self, tensors: Iterable[Tensor], p: float = 2.0) -> Tensor:
        """The p-norm over all elements of tensors, counted once however they lie on ranks."""
        from . import norms  # here, because it imports torch.distributed, which one process alone may never need

        return norms.norm(list(tensors), p)

    def norms(self, tensors: Iterable[Tensor], p: float = 2.0) -> list[Tensor]:
        """The p-norm of each tensor over all of its elements, however these lie on the ranks that hold parts of it. On the
        stages of a pipeline each asks for its own."""
        from . import norms

        return norms.each(list(tensors), p)

    def whole(self, tensor: Tensor) -> Tensor:
        """The full value of a tensor of which ranks may hold parts; all ranks must ask."""
        full = getattr(tensor, "full_tensor", None)
        return tensor if full is None else full()

    def gathered(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values by parameter name, of which ranks may hold different ones, on every rank."""
        return values

    def local_state(self, tree: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of the state of a whole program what this rank has parameters for."""
        return tree

    def summary(self) -> dict[str, Any]:
        """What a program says of the whole model where its rank holds a part of it, and how it is cut."""
        return {}

    def together(self, window: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Metrics of replicas that step by themselves as those of all of them; a request for attention goes along."""
        (only,) = window
        return dict(only)

    def sums(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """(sum, weight) pairs, one mapping for each micro-shard, summed over these and the ranks with different records."""
        (only,) = parts
        return dict(only)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value (it is pickled) by rank, on every rank; all ranks must ask."""
        return [value]


def whole(tensor: Tensor) -> Tensor:
    """The full value of a tensor, detached; of a distributed one all ranks must ask."""
    full = getattr(tensor, "full_tensor", None)
    return tensor.detach() if full is None else full().detach()


def is_shard(tensor: Any) -> bool:
    """Whether ranks hold parts of it (a DTensor)."""
    return hasattr(tensor, "device_mesh")


def cut(full: Tensor, like: Any) -> Tensor:
    """Of a full value the part that this rank holds of `like`; nothing is sent."""
    if not is_shard(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    return local(distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None))


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this rank, in place: itself, or the local part of a distributed tensor."""
    found: Tensor = getattr(tensor, "_local_tensor", tensor)
    return found
