"""A task maps (model, batch) to (total, weight, outputs). Installed, `task/my_name` works in every spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor

from mapsto import Kind, registry
from mapsto.torch import Task

LOSS: Kind = registry.kind("loss")


# `Task` calls the model with the batch's input fields and the loss with its output and the target field. What is left to
# say is how outputs are read (`predict`) and measured (`measure`). Any function of (model, batch) is a task as well.
class MyName(Task):
    """Yes or no for each record: one logit [B] (or [B, 1]) against 0 or 1 [B]. Metrics: `accuracy`, `recall`.

    threshold: the probability from which on a record counts as yes.
    """

    # Annotated with a kind, `loss` takes a mapping of that kind by its name or as {use: ..., options}.
    def __init__(self, loss: Annotated[Any, LOSS] = "binary_cross_entropy", *, threshold: float = 0.5) -> None:
        super().__init__(registry.get("loss", loss) if isinstance(loss, str) else loss)
        self.threshold = threshold

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """The model's logits, one a record."""
        logits: Tensor = super().forward(model, batch)
        return logits.squeeze(-1) if logits.dim() == 2 else logits

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """A label and its probability for each record; `mapsto predict` writes them."""
        probability = outputs.sigmoid()
        return {"label": (probability >= self.threshold).long(), "probability": probability}

    # Pairs (sum, weight), which are averaged exactly over an evaluation. Nothing is copied from the device here.
    def measure(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        """How many are right, and how many of the positive ones are found."""
        said, true = self.predict(outputs)["label"], batch[self.target].long()
        return {
            "accuracy": ((said == true).sum(), true.numel()),
            "recall": ((said * true).sum(), true.sum()),
            **super().measure(outputs, batch),
        }
