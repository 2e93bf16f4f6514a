"""The checker: which laws a target owes, run apart from each other in worker processes, and the verdicts on paper.

`resolve(targets)` finds what they name and `check(subjects)` judges it: what `mapsto check` calls; `mapsto.testing` brings
the same laws into one's own test-suite.
"""

from .runner import check, resolve, server

__all__ = ["check", "resolve", "server"]
