"""The checker: which laws a target owes, run apart from each other in worker processes, and the verdicts on paper.

`check(targets)` is what `mapsto check` calls; `mapsto.testing` brings the same laws into one's own test-suite.
"""

from .runner import check
from .targets import subjects

__all__ = ["check", "subjects"]
