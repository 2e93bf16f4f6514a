"""Hostile specs, drawn from a seed: texts that are damaged, and specs of which one value can only be wrong."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

from mapsto.core.yaml_text import write_yaml

SOURCE = {"use": "arrays", "input": [[0.5]], "target": [0]}
BASES: list[dict[str, Any]] = [
    {
        "name": "small",
        "model": {"use": "torch.nn:Linear", "in_features": 1, "out_features": 2},
        "task": "classification",
        "optimizer": {"use": "adamw", "lr": 0.05},
        "middleware": [{"use": "clip_norm", "max_norm": 1.0}, "ema"],
        "data": {"train": {"source": SOURCE, "batch_size": 2, "shuffle": True}},
        "checkpoint": {"every": 3, "keep": 2},
        "epochs": 2,
    },
    {
        "model": {"use": "torch.nn:Linear", "in_features": 1, "out_features": 2},
        "schedule": {"use": "warmup", "steps": 2},
        "observers": [{"use": "early_stopping", "patience": 2}],
        "mesh": {"replicate": 1},
        "data": {"train": {"source": SOURCE, "batch_size": 1, "transforms": [{"use": "scale", "factor": 2.0}]}},
        "steps": 3,
        "seed": 7,
        "log_every": 2,
    },
]
WRONG_TYPE = {
    int: ["x", 1.5, 3.0, [], {}, [1], math.nan, math.inf, True, "9" * 5000, {"use": "adamw"}],
    float: ["x", [], {}, [1], True, "1e", {"use": "adamw"}],
    str: [1, 1.5, [], {}, True, ["a"]],
    bool: ["x", 7, 1.5, [], {}],
    "part": [
        3,
        1.5,
        True,
        [],
        [1],
        {},
        {"a": 1},
        {"use": None},
        {"use": 3},
        {"use": []},
        {"use": {"use": "x"}},
        {"use": "no:such"},
        {"use": "nosuch"},
        "nosuch",
        {"use": ""},
        {"use": "a:"},
        {"use": ":b"},
        {"use": "../x:y"},
        {"use": "os:no_such"},
        "",
    ],
    "list": [3, "x", {"a": 1}, True, [3], [[]], [None], [{}], ["nosuch"], [{"use": 3}]],
    "mapping": [3, "x", [], [1], True, None],
}
LEAST = {"epochs": 1, "steps": 1, "seed": 0, "log_every": 1, "evaluate_every": 1, "micro_shards": 1}
WRONG_TYPE["source"] = [value for value in WRONG_TYPE["part"] if value not in ([], [1], {}, {"a": 1})]  # which hold records
FIELDS: dict[str, Any] = {
    "seed": int,
    "log_every": int,
    "evaluate_every": int,
    "micro_shards": int,
    "strict": bool,
    "name": str,
    "device": str,
    "wing": str,
    "model": "part",
    "task": "part",
    "optimizer": "part",
    "schedule": "part",
    "mesh": "part",
    "middleware": "list",
    "observers": "list",
    "data": "mapping",
    "data.train": "part",
    "data.train.source": "source",
    "data.train.batch_size": int,
    "data.train.shuffle": bool,
    "optimizer.lr": float,
    "model.in_features": int,
    "checkpoint.every": int,
    "checkpoint.keep": int,
    "checkpoint.best": int,
    "checkpoint.metric": str,
    "checkpoint.asynchronous": bool,
}
"""What a field can only be; a value of another type in it is nonsense, whatever else the spec says."""


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a path; what is not there on the way is made."""
    *steps, last = path.split(".")
    for step in steps:
        if not isinstance(data.get(step), dict):
            data[step] = {"use": data[step]} if isinstance(data.get(step), str) else {}
        data = data[step]
    data[last] = value


def nonsense(rng: random.Random) -> tuple[str, str]:
    """(YAML of a spec with one thing in it that can only be wrong, what that is)."""
    data = copy.deepcopy(rng.choice(BASES))
    kind = rng.randrange(5)
    if kind == 0:
        place = rng.choice(["", "optimizer.", "model.", "data.train.", "checkpoint."])
        path, value = (
            f"{place}{rng.choice(['lrr', 'x', 'Batch_Size', 'é', '1', 'use_', 'a b'])}",
            rng.choice([1, "x", [], None]),
        )
        if place == "optimizer." and "optimizer" not in data:
            data["optimizer"] = {"use": "adamw"}
    elif kind == 1:
        path = rng.choice(list(LEAST))
        value = LEAST[path] - rng.choice([1, 2, 10**6, 10**30])
        data = {k: v for k, v in data.items() if k not in ("epochs", "steps")}
    elif kind == 2:
        path, value = rng.choice(["model", "data"]), None
        if rng.random() < 0.5:
            data.pop(path)
            return write_yaml(data), f"without {path}"
    elif kind == 3:
        path, value = "name", rng.choice(["", "..", "../x", "/x", "a/b", "x" * 300, "\x1b[31m", ".x", "a\nb"])
    else:
        path = rng.choice(list(FIELDS))
        value = rng.choice(WRONG_TYPE[FIELDS[path]])
        if path == "optimizer.lr" and "optimizer" not in data:
            data["optimizer"] = {"use": "adamw"}
        if (path, value) == ("mesh", {}):  # no axis is one process
            path, value = "seed", "x"
    put(data, path, value)
    return write_yaml(data), f"{path}={str(value)[:60]!r}"


TOKENS = [
    "&a ",
    "*a",
    "!!python/object/apply:os.system ",
    "!!int ",
    "!!binary ",
    "<<: *a",
    "\t",
    "\x00",
    "\x1b[31m",
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    "- ",
    "? ",
    "| ",
    "> ",
    "%YAML 9",
    "---",
    "...",
    "'",
    '"',
    "\\",
    "#",
    "@",
    "`",
    "\u202e",
    "\ufeff",
    "\ud800",
    "9" * 5000,
    "0x" + "f" * 5000,
    "[" * 3000,
    "{a: " * 3000,
    "1e999",
    ".nan",
    "- " * 2000,
    "\r",
    "\x85",
    "\u2028",
    "a" * 3000,
    "{use: ",
    "use: ",
    "reference: ",
    "live: ",
    "null",
    "~",
    "-1",
    "true",
]
TEXTS = [write_yaml(base) for base in BASES]


def damaged(rng: random.Random) -> bytes:
    """The text of a good spec after a few accidents."""
    text = rng.choice(TEXTS)
    for _ in range(rng.randint(1, 4)):
        lines, at = text.splitlines(keepends=True) or [""], rng.randrange(len(text) + 1)
        line = rng.randrange(len(lines))
        kind = rng.randrange(7)
        if kind == 0:
            text = text[:at] + rng.choice(TOKENS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + rng.randint(1, 20) :]
        elif kind == 2:
            lines[line] = " " * rng.randint(0, 6) + lines[line].lstrip()
            text = "".join(lines)
        elif kind == 3:
            lines.insert(rng.randrange(len(lines)), lines[line])
            text = "".join(lines)
        elif kind == 4:
            del lines[line]
            text = "".join(lines)
        elif kind == 5:
            key, colon, _ = lines[line].partition(":")
            lines[line] = f"{key}{colon} {rng.choice(TOKENS)}\n"
            text = "".join(lines)
        else:
            text = text[:at] + chr(rng.choice([rng.randrange(128), rng.randrange(0x3000)])) + text[at + 1 :]
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        spot = rng.randrange(len(data) + 1)
        data = data[:spot] + bytes(rng.randrange(256) for _ in range(4)) + data[spot:]
    return data
