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
"""Of the time of the run, spent on checkpoints, waiting for a slow disk apart; more than a tenth buys little safety for much
time."""
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

RECORDS = 8
"""Records that must have been looked at before anything is said about what all of them hold."""
TELLING_BITS = 64.0
"""What an input can say about, in bits, from which on equal ones are copies: tokens by the dozen, a row of several measured
numbers. Shorter ones (a few words, a handful of categories) are equal by chance."""
REPEATED, REPEATED_NOTE, REPEATED_CHANCE = 0.3, 0.02, 0.5
"""Of the training records, that repeat another one: a file read twice makes half; sentences that people say again make some
per cent. Inputs that say little are told of, as a note, from the third value on."""
SHARED, SHARED_NOTE = 0.03, 0.005
"""Of an evaluated set, that is trained on, beyond what chance makes equal: a few in a hundred move a result by as much."""
UNSEEN = 0.05
"""Of an evaluated set, whose classes training never shows; long tails of rare classes have a few."""
UNBALANCED = 0.95
"""Of the training records, in one class: beyond it accuracy says next to nothing."""
BLOCKED, MOSTLY_ONE = 0.5, 0.9
"""How far batches are from mixed (0) towards one class each (1), where not most records are of one class anyway."""
TABLE, SMALL_TABLE = 256, 32
"""Columns up to which a constant one is told: more are the pixels of a picture, whose border never changes. One of zeros is
told of the smaller tables only: it may be a place in a one-hot code that nothing takes."""
SCALE, SPREAD = 1e4, 1e4
"""The root mean square of inputs from which they are not normalised (sound and 16-bit pictures stay below), and how many
times the median column the largest may be."""
EMPTY, BLANK_NOTE, BLANK = 0.01, 0.05, 0.2
"""Of the training records: empty texts, and records of one value, that are told as a note, and what is wrong."""
MOVED, STRETCHED, MOVED_FAR, STRETCHED_FAR = 1.0, 3.0, 5.0, 10.0
"""How many spreads the mean of an evaluated set may differ, and how many times its spread; beyond the second pair it is not
another place or year but another scale."""
RANDOM_NOTE, RANDOM = 1e-3, 1e-2
"""Of the loss of a batch, by which it may differ when it is evaluated again: sums in another order make less than the first;
models that draw samples on purpose, and average over many, less than the second."""
DISK_SECONDS, DISK_RATE = 0.02, 2e8
"""What a disk that is not slow lets a checkpoint wait: eight things to be forced to it in all, and its bytes at 200 MB/s.
What it takes longer is the disk's doing and not the plan's."""
