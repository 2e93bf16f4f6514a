"""PyTorch, as it is known before it is imported."""

from __future__ import annotations

from ..core.wings import Framework

TORCH = Framework(
    name="torch",
    packages=("torch", "mapsto.torch"),
    program="mapsto.torch.wing",
    laws="mapsto.torch.laws",
    native="mapsto.wings.torch_native",
    given={"optimizer": ("params",), "schedule": ("optimizer",)},
    defaults={"task": "classification", "optimizer": "adamw"},
    preload=(
        *("mapsto.torch.wing", "mapsto.torch.mesh.ranks", "mapsto.torch.sharded_files"),
        *("torch.distributed.fsdp", "torch._dynamo"),  # sharding asks for it, and each rank would import it anew
    ),
    templates="mapsto.cli.templates",
    requires="mapsto[torch]",
)
