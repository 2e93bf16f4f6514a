"""Planted faults: runs with one thing wrong, as a table of specs, each beside the same run without it.

A row says which finding must name it, and how grave that is. `Records` has all faults of data; those that only a framework has
(`wing="torch"`) stand at the end. All are small, and are trained in this process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import mapsto

WORDS = ["the", "a", "river", "stone", "walks", "green", "quickly", "seven", "lamps", "never", "tells", "old", "morning"]


class Records:
    """Three classes of six measurements, and one thing wrong with them."""

    vectorised = True

    def __init__(self, fault: str = "", records: int = 180, width: int = 6, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        y = rng.permutation(np.arange(records) % 3)
        x = rng.normal(size=(records, width)) + 0.7 * y[:, None]
        self.fields: dict[str, Any] = {"input": x, "target": y}
        if fault:
            getattr(self, f"_{fault}")(x, y, rng)

    def __len__(self) -> int:
        return len(self.fields["target"])

    def __getitem__(self, indices):
        return {
            name: value[indices] if isinstance(value, np.ndarray) else [value[i] for i in indices]
            for name, value in self.fields.items()
        }

    # -- faults ----------------------------------------------------------------------------------------------------------
    def _twice(self, x, y, rng):
        self.fields = {"input": np.concatenate([x, x[: len(x) // 2]]), "target": np.concatenate([y, y[: len(y) // 2]])}

    def _leaked(self, x, y, rng):
        """A fifth of these records is of the training set, which was drawn from seed 0."""
        train = Records().fields
        x[: len(x) // 5], y[: len(y) // 5] = train["input"][: len(x) // 5], train["target"][: len(y) // 5]

    def _label(self, x, y, rng):
        x[:, 2] = 0.5 * y

    def _one_hot(self, x, y, rng):
        x[:, 1:4] = np.eye(3)[y]

    def _one_class(self, x, y, rng):
        y[:] = 1

    def _unseen_class(self, x, y, rng):
        self.fields = {"input": x[y < 2], "target": y[y < 2]}

    def _rare(self, x, y, rng):
        y[:] = np.arange(len(y)) % 30 == 7

    def _constant(self, x, y, rng):
        x[:] = 0.25

    def _constant_column(self, x, y, rng):
        x[:, 4] = 4.2

    def _large(self, x, y, rng):
        x *= 1e6

    def _large_column(self, x, y, rng):
        x[:, 0] *= 1e6

    def _one_based(self, x, y, rng):
        y += 1

    def _sorted(self, x, y, rng):
        order = np.argsort(y, kind="stable")
        self.fields = {"input": x[order], "target": y[order]}

    def _elsewhere(self, x, y, rng):
        x += 3.0

    def _not_normalised(self, x, y, rng):
        x *= 40.0

    def _padded(self, x, y, rng):
        tokens = rng.integers(1, 9, x.shape)
        tokens[rng.random(len(x)) < 0.6] = 0
        self.fields["input"] = tokens

    def _tokens(self, x, y, rng):
        self.fields["input"] = rng.integers(1, 9, x.shape) + y[:, None]

    def _texts(self, x, y, rng):
        self.fields["input"] = [" ".join([*rng.choice(WORDS, 8), "stone" * label]) for label in y]

    def _empty_texts(self, x, y, rng):
        self._texts(x, y, rng)
        self.fields["input"] = [text if rng.random() > 0.4 else " " for text in self.fields["input"]]

    def _labelled_texts(self, x, y, rng):
        self._texts(x, y, rng)
        self.fields["input"] = [f"{'abc'[i]} {t}" for i, t in zip(y, self.fields["input"], strict=True)]

    def _repeated_texts(self, x, y, rng):
        """Sentences that are said again now and then, as people do."""
        self._texts(x, y, rng)
        texts = self.fields["input"]
        for i in range(0, len(texts), 12):
            texts[i] = "i like it a lot and would buy it again any time"

    def _missing(self, x, y, rng):
        x[::40, 3] = np.nan

    def _measured(self, x, y, rng):
        """A number to predict, and what it is predicted from."""
        self.fields["target"] = (x @ np.arange(1, 7) + 0.1 * rng.normal(size=len(x)))[:, None]

    def _answer(self, x, y, rng):
        self._measured(x, y, rng)
        x[:, 5] = 3.0 * self.fields["target"][:, 0] - 7.0

    def _chain(self, x, y, rng):
        """Tokens, and the ones that come next."""
        tokens = np.cumsum(rng.integers(1, 3, (len(x), 9)), 1) % 12
        self.fields = {"input": tokens[:, :-1], "target": tokens[:, 1:]}

    def _unshifted(self, x, y, rng):
        self._chain(x, y, rng)
        self.fields["target"] = self.fields["input"].copy()

    def _beyond(self, x, y, rng):
        self._chain(x, y, rng)
        self.fields["input"] = self.fields["input"] + 1


def counted(batch):
    """Texts as how often six letters occur in them."""
    counts = [[text.count(letter) / 8 for letter in "aeinst"] for text in batch["input"]]
    return {**batch, "input": np.array(counts)}


def single(batch):
    """In the types that the framework's layers take."""
    return {n: v.astype("float32") if v.dtype == np.float64 else v for n, v in batch.items()}


# -- the table -----------------------------------------------------------------------------------------------------------
NOTE, COSTLY, WRONG, FATAL = "note", "costly", "wrong", "fatal"


@dataclass(frozen=True)
class Fault:
    """name: what is wrong; finding: what must say so; how grave; train, valid, test: faults of `Records` in these sets;
    twin: the same in the run that is well; changes: to the spec, of both; wrong: of the one that is not well."""

    name: str
    finding: str
    gravity: str = WRONG
    train: str = ""
    valid: str = ""
    test: str = ""
    twin: str = ""
    wing: str = "numpy"
    transforms: tuple[Any, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> Fault:
        """The same run with nothing wrong."""
        return replace(self, train=self.twin, valid=self.twin, test=self.twin if self.test else "", wrong={})


def spec(fault: Fault) -> mapsto.Spec:
    """The spec of a run with it."""
    transforms = [*fault.transforms, *(["planted:single"] if fault.wing == "torch" else [])]
    kinds = {"train": (fault.train, 0), "valid": (fault.valid or fault.twin, 1), "test": (fault.test or fault.twin, 2)}
    data: dict[str, Any] = {}
    for name, (kind, seed) in kinds.items():
        if name != "test" or fault.test:
            source = {"use": "planted:Records", "fault": kind, "seed": seed, "records": 180 if name == "train" else 60}
            data[name] = {"source": source, "batch_size": 18 if name == "train" else 30, "transforms": transforms}
    data["train"]["shuffle"] = fault.train != "sorted"
    numpy = {
        "model": {"use": "numpy_wing:Model", "inputs": 6, "hidden": 8, "dropout": 0.1},
        "optimizer": {"use": "numpy_wing:adam", "lr": 0.03},
        "task": "numpy_wing:classify",
        "wing": "numpy",
    }
    torch = {"model": {"use": "torch_faults:Net", "width": 6}, "optimizer": {"use": "adamw", "lr": 0.01}}
    rest = {"steps": 60, "log_every": 3, "evaluate_every": 20, "checkpoint": {"every": 60, "best": 0}, "data": data}
    changes = {**fault.changes, **fault.wrong}
    for name, over in changes.pop("data", {}).items():
        data[name] = {**data[name], **over}
    return mapsto.Spec(**{**(torch if fault.wing == "torch" else numpy), **rest, **changes})


LONG = {"steps": 120, "log_every": 5}
GUESSES = {
    "model": {"use": "numpy_wing:Model", "inputs": 4, "hidden": 24, "dropout": 0.0},
    "data": {
        "train": {"source": {"use": "faults:Guesses"}, "batch_size": 24},
        "valid": {"source": {"use": "faults:Guesses", "seed": 1}, "batch_size": 24},
    },
    "steps": 300,
    "log_every": 5,
}
WHOLE = {"model": {"use": "numpy_wing:Model", "inputs": 6, "dropout": 0.0}, "data": {"train": {"batch_size": 180}}}
HEALTH = {"middleware": [{"use": "health", "every": 2}]}
HALF = {"middleware": [{"use": "mixed_precision", "dtype": "fp16"}]}
LANGUAGE = {"model": {"use": "torch_faults:Tokens", "ids": 12}, "task": "language_model"}
REGRESSION = {"model": {"use": "torch_faults:Line", "width": 6}, "task": "regression", "optimizer": {"use": "adamw", "lr": 0.1}}


def net(fault: str, **more: Any) -> dict[str, Any]:
    return {"model": {"use": "torch_faults:Net", "width": 6, "fault": fault, **more}}


def numpy_lr(rate: float) -> dict[str, Any]:
    return {"optimizer": {"use": "numpy_wing:adam", "lr": rate}}


RECORDS = (
    Fault("a file that was read one and a half times", "records_repeated", train="twice"),
    Fault("a fifth of valid in train", "records_shared", valid="leaked"),
    Fault("a tenth of test in train", "records_shared", test="leaked"),
    Fault("valid reads the training set", "records_shared", wrong={"data": {"valid": {"source": {"use": "planted:Records"}}}}),
    Fault("a column that is the label", "label_in_input", train="label", valid="label"),
    Fault("columns that spell the label", "label_in_input", train="one_hot", valid="one_hot"),
    Fault("texts that begin with their label", "label_in_input", train="labelled_texts", valid="labelled_texts", twin="texts",
          transforms=("planted:counted",)),
    Fault("one class only", "one_class", train="one_class", valid="one_class"),
    Fault("a class that training never shows", "classes_missing", train="unseen_class"),
    Fault("nearly all of one class", "classes_unbalanced", NOTE, train="rare", valid="rare"),
    Fault("labels in blocks, not shuffled", "labels_sorted", train="sorted"),
    Fault("an input that never changes", "input_constant", train="constant", valid="constant"),
    Fault("a column that never changes", "columns_constant", NOTE, train="constant_column", valid="constant_column"),
    Fault("inputs of a million", "input_scale", train="large", valid="large", changes={"steps": 12}),
    Fault("one column of a million", "input_scale", train="large_column", valid="large_column"),
    Fault("records of nothing but padding", "input_blank", train="padded", valid="padded", twin="tokens"),
    Fault("empty texts", "input_blank", train="empty_texts", valid="empty_texts", twin="texts",
          transforms=("planted:counted",)),
    Fault("valid is not normalised", "sets_differ", valid="not_normalised"),
    Fault("test is of another origin", "sets_differ", NOTE, test="elsewhere"),
    Fault("classes counted from one", "targets_outside", FATAL, train="one_based", valid="one_based"),
)  # fmt: skip
COURSE = (
    Fault("a learning rate of zero", "learning_rate_zero", wrong=numpy_lr(0.0)),
    Fault("a learning rate that is far too small", "loss_stuck", changes=WHOLE, wrong=numpy_lr(1e-9)),
    Fault("a learning rate that is far too large", "loss_diverging", changes=LONG, wrong=numpy_lr(40.0)),
    Fault("learning by heart", "overfitting", wrong=GUESSES),
    Fault("a transform that raises", "crashed", FATAL, wrong={"data": {"train": {"transforms": [{"use": "faults:Late"}]}}},
          changes=LONG),
    Fault("an observer that raises", "observers_detached", COSTLY, wrong={"observers": ["faults:raising"]}),
)  # fmt: skip
TORCH = tuple(
    replace(fault, wing="torch")
    for fault in (
        Fault("a branch that is detached", "no_gradient", wrong=net("detached")),
        Fault("units that are never active", "no_gradient", wrong=net("dead")),
        Fault("updates that are rounded away", "weights_unchanged", changes=HEALTH,
              wrong={**net("", dtype="bfloat16"), "optimizer": {"use": "sgd", "lr": 1e-6}}),
        Fault("updates that are far too small", "update_too_small", changes={**HEALTH, **net("", dtype="float64")},
              wrong={"middleware": [*HEALTH["middleware"],
                                    {"use": "param_groups", "rules": [{"match": "side.*", "lr": 1e-9}]}]}),
        Fault("updates that are far too large", "update_too_large", changes=HEALTH,
              wrong={"optimizer": {"use": "adamw", "lr": 3.0}}),
        Fault("a logarithm of what may be negative", "nonfinite", wrong=net("logarithm")),
        Fault("a gradient that overflows", "loss_scale", changes=HALF, wrong=net("root")),
        Fault("steps that are skipped", "steps_skipped",
              wrong={**net("logarithm"), "middleware": [{"use": "nonfinite", "action": "skip"}]}),
        Fault("inputs with not-a-number", "input_nonfinite", train="missing"),
        Fault("dropout of a function call in evaluation", "evaluation_random", wrong=net("dropout")),
        Fault("a task that puts the model into training mode", "evaluation_training", changes=net("normalised"),
              wrong={"task": "torch_faults:train_always"}),
        Fault("a task that trains for a moment in evaluation", "evaluation_training", changes=net("normalised"),
              wrong={"task": "torch_faults:train_for_a_moment"}),
        Fault("a column that is the number to predict", "label_in_input", train="answer", valid="answer", twin="measured",
              changes=REGRESSION),
        Fault("targets that are not shifted", "label_in_input", train="unshifted", valid="unshifted", twin="chain",
              changes=LANGUAGE),
        Fault("ids beyond the vocabulary", "ids_outside", FATAL, train="beyond", valid="beyond", twin="chain",
              changes=LANGUAGE),
    )
)  # fmt: skip
FAULTS = (*RECORDS, *COURSE, *TORCH)

NATURAL = (
    Fault("sentences that are said again", "", train="repeated_texts", valid="repeated_texts", transforms=("planted:counted",)),
    Fault("a class that is three times as rare", "", wrong={"data": {"train": {"limit": 120}}}),
    Fault("short tokens, of which many are equal", "", train="tokens", valid="tokens"),
    Fault("inputs of a million before a normalisation", "", train="large", valid="large", wing="torch", changes=net("first")),
)
"""Healthy runs with what looks like a fault, and is none."""
