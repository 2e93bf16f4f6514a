"""Objects that ranks send each other: torch pickles them, so none is read that a rank of this run did not write.

All of torch's object collectives (its checkpoints and pipelines use them too) turn an object into bytes and back at one place
each. There a code is put in front, and checked before anything is unpickled.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.errors import MapstoError
from ...core.signing import SIZE, code_of, verified

PURPOSE = b"an object from rank to rank"
_torch: Any = dist.distributed_c10d
_write, _read = _torch._object_to_tensor, _torch._tensor_to_object


def sign_objects(secret: bytes | None) -> None:
    """From now on objects between ranks carry a code under this secret, and others are refused; None: as torch does it.

    Every rank must be told the same secret. A refused object is a MapstoError.
    """

    def write(found: Any, device: Any, group: Any) -> tuple[Tensor, Tensor]:
        assert secret is not None
        written, size = _write(found, device, group)
        code = code_of(secret, PURPOSE, written.cpu().numpy().tobytes())
        return torch.cat([torch.frombuffer(bytearray(code), dtype=torch.uint8).to(written.device), written]), size + SIZE

    def read(given: Tensor, size: Any, group: Any) -> Any:
        assert secret is not None
        if verified(secret, PURPOSE, given.cpu().numpy().tobytes()[: int(size)]) is None:
            raise MapstoError(
                f"an object of {int(size)} bytes that came from another rank was not written by a rank of this run, and is "
                "refused: somebody else reaches the ranks' ports, or the ranks were given different secrets (MAPSTO_SECRET)"
            )
        return _read(given[SIZE:], size - SIZE, group)

    _torch._object_to_tensor, _torch._tensor_to_object = (write, read) if secret else (_write, _read)
