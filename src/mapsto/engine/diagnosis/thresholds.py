"""The limits beyond which something is a finding, all in one place, each with its reason.

They are set so that a healthy run stays silent: ordinary noise, warm-up and the first log are no finding.
"""

from __future__ import annotations

LOGS = 3
"""Logs that are wanted before anything is said about their course: one is an anecdote, two are a line."""
TREND_LOGS = 8
"""Logs that a trend (of the loss, of throughput, of memory) is read from: stretches of two, whose medians tell noise apart."""
EVALUATIONS = 5
"""Evaluations that overfitting is read from: the best, what came before, and at least two after it."""
NOISE = 3.0
"""How many times its own noise (the spread between neighbours) a curve must move: by chance that happens 3 times in 1,000."""

DATA_SHARE = 0.25
"""Of the time of the steps, spent waiting for data: below a quarter, more workers cannot make a run 1.33x faster."""
LEAST_SECONDS = 1.0
"""Seconds that must have been lost in all before a share of them is worth a word."""
SLOW_RANK = 0.2
"""Of the time of a step, that one rank works longer than the others' median: they all wait for it that long. Ranks on one
machine that share cores differ by up to a tenth."""
SLOW_RANK_LOGS = 0.6
"""Of the logs, in which it must be the same rank: one that is slow now and then is the machine's noise."""
THROUGHPUT = 0.7
"""Records a second of the last third over those of the first, below which a run became slower; clocks that throttle and
neighbours take a tenth or two."""
CHECKPOINT_SHARE = 0.1
"""Of the time of the run, spent writing checkpoints; more than a tenth buys little safety for much time."""
MEMORY_SHARE, MEMORY_BYTES = 0.1, 48e6
"""How much memory must grow after the first quarter of a run: a tenth of it and 48 MB. Allocators settle within less."""
MEMORY_LATE = 0.4
"""How much of that growth per step must still be there in the last stretch: caches that fill up level off, leaks do not."""

LOSS_SCALE = 1.0
"""Below it there is no scaling left: float16 gradients underflow, and gradients that are not finite have another cause."""
SKIPPED = 0.2
"""Of the steps of the second half, that changed no weight: a scaler that settled skips one in thousands."""
ZERO_RATE = 0.5
"""Of the steps, with a learning rate of exactly zero. Warm-ups and decays touch zero for a step."""
DIVERGED = 0.5
"""Of what the loss had gained, that it must have lost again (and be NOISE times its noise above its best); of a loss that
never gained anything, how far above the first step's it must end."""
STUCK = 0.01
"""Of the loss at the first step: what it must have fallen by. One part in a hundred is less than any learning."""
OVERFITTED = 0.05
"""Of its best value, by which the evaluation must have become worse at the end while the training loss went on falling."""
UPDATE_SMALL, UPDATE_LARGE = 1e-7, 0.1
"""The length of an update over that of the weights. Around 1e-3 is usual; below float32's resolution (6e-8) rounding eats
it, above a tenth the weights are replaced rather than improved."""
STALL_SECONDS = 60.0
"""Seconds without a finished step after which a run that has not ended is said to stand still (or ten steps, if longer)."""
VERIFIED_BYTES = 4e9
"""Bytes of checkpoints whose SHA-256 is computed, newest first; of older ones only the sizes are compared."""
