"""Damaged run folders, drawn from a seed: accidents to bytes, and forgeries whose sizes and hashes are right."""

from __future__ import annotations

import json
import math
import os
import random
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mapsto.engine.checkpoints.manifest import MANIFEST, STATE, TENSORS, digest, measure

EVIL = [
    None,
    True,
    -1,
    0,
    1.5,
    math.nan,
    math.inf,
    10**400,
    1 << 62,
    "",
    "x",
    "\x1b[31m",
    "[red]x",
    "\ud800",
    "a/../../b",
    "\0",
    "9" * 5000,
    "z" * 20_000,
    [],
    {},
    [[]],
    {"a": {}},
    [None],
    ["x"],
    {"$": "tensor", "v": 3},
    {"$": "tensor", "v": "x"},
    {"$": "per_rank", "v": 1},
    {"$": "nosuch"},
    {"$": "array", "v": "AAAA"},
    {"$": "int", "v": "zz"},
    {"$": []},
]


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def forged(rng: random.Random, data: Any) -> Any:
    """The data with one to three values that somebody else thought of."""
    for _ in range(rng.randint(1, 3)):
        holder, at = data, None
        while isinstance(holder, (dict, list)) and holder:
            key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
            at, inner = (holder, key), holder[key]
            if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.25:
                break
            holder = inner
        if at is None:
            return rng.choice(EVIL)
        value = rng.choice([*EVIL, nested(rng.choice([50, 150, 900]))])
        if isinstance(at[0], dict) and rng.random() < 0.2:
            del at[0][at[1]]
        elif isinstance(at[0], dict) and rng.random() < 0.1:
            at[0][rng.choice(["\x1b[31m", "[red]x", "q" * 5000, "$"])] = at[0].pop(at[1])
        else:
            at[0][at[1]] = value
    return data


def content(file: Path) -> bytes:
    """The bytes of a file. Raises OSError where it is no regular one: a pipe would be waited for, a link leads elsewhere."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise OSError(f"{file} is no regular file")
    return file.read_bytes()


def sealed(checkpoint: Path, **changes: Any) -> None:
    """A manifest that fits what lies there now: the damage is what was `written`."""
    manifest = json.loads(content(checkpoint / MANIFEST))
    manifest.pop("digest", None)
    manifest["files"] = {f.name: measure(f) for f in checkpoint.iterdir() if f.name != MANIFEST and f.is_file()}
    manifest.update(changes)
    (checkpoint / MANIFEST).write_text(json.dumps({**manifest, "digest": digest(manifest)}))


# -- what is done to a folder ------------------------------------------------------------------------------------------
def bytes_of_a_file(rng: random.Random, folder: Path) -> str:
    """An accident to the bytes of a file."""
    file = rng.choice([f for f in sorted(folder.rglob("*")) if f.is_file()])
    data = bytearray(content(file))
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(6)
    if kind == 0:
        data = data[:at]
    elif kind == 1 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 40)))
    elif kind == 3:
        data = bytearray(rng.randrange(256) for _ in range(rng.randint(0, 300)))
    elif kind == 4:
        data = bytearray(b"[" * 50_000 if rng.random() < 0.5 else b'{"step": ' + b"9" * 10_000 + b"}\n")
    else:
        data[at:at] = b"\xff\xfe\x00\x1b[31m"
    file.write_bytes(data)
    return f"{file.name}: bytes {kind}"


def another_thing(rng: random.Random, folder: Path) -> str:
    """A pipe, a link, a directory, a device or nothing in the place of a file or directory."""
    file = rng.choice([f for f in sorted(folder.rglob("*")) if f.is_file()])
    file.unlink()
    kind = rng.choice(["pipe", "directory", "nothing", "itself", "/dev/zero", "/etc/hostname", "elsewhere"])
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    elif kind == "itself":
        file.symlink_to(file)
    elif kind != "nothing":
        file.symlink_to(kind)
    return f"{file.name}: {kind}"


def json_of_a_file(rng: random.Random, folder: Path) -> str:
    """A forged JSON file, sealed where it belongs to a checkpoint."""
    files = [
        f for f in sorted(folder.rglob("*")) if f.suffix in (".json", ".jsonl") or (f.name.startswith("rank-") and f.is_file())
    ]
    file = rng.choice([f for f in files if f.is_file()])
    lines = content(file).decode().splitlines()
    if file.suffix == ".json":
        text = json.dumps(forged(rng, json.loads(content(file).decode())))
    else:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(forged(rng, json.loads(lines[at]))) if lines[at].startswith("{") else lines[at]
        text = "\n".join(lines) + "\n"
    if file.name == MANIFEST:
        data = json.loads(text)
        if isinstance(data, dict):
            data.pop("digest", None)
            text = json.dumps({**data, "digest": digest(data)})
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    if file.name == STATE:
        sealed(file.parent)
    return f"{file.parent.name}/{file.name}: forged"


def header_of_tensors(rng: random.Random, folder: Path) -> str:
    """A tensor file whose header lies, sealed."""
    file = rng.choice(sorted(folder.rglob("*.safetensors")))
    data = content(file)
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    names = [n for n in header if n != "__metadata__"]
    one, other = rng.choice(names), rng.choice(names)
    begin, end = header[one]["data_offsets"]
    kind = rng.randrange(9)
    if kind == 0:
        header[one]["shape"] = rng.choice([[10**12], [-1], [], [2, 10**18], ["x"]])
    elif kind == 1:
        header[one]["dtype"] = rng.choice(["F64", "F8", "I8", "BOOL", "x", 3, "F4"])
    elif kind == 2:
        header[one]["data_offsets"] = rng.choice(
            [[begin, 10**15], [end, begin], [-5, 3], [0], ["a", "b"], [begin + 1, end + 1]]
        )
    elif kind == 3:
        header[one]["data_offsets"] = header[other]["data_offsets"]
    elif kind == 4:
        header = {"n" * 5000: header.pop(one), **header}
    elif kind == 5:
        header.pop(one)
    elif kind == 6:
        header["__metadata__"] = rng.choice([{"DCP_SHARDING_INFO": "[[["}, {"DCP_SHARDING_INFO": '{"x": 3}'}, [], {"a": 3}])
    text = rng.choice([b"", b"[" * 5000, b"\xff"]) if kind == 7 else json.dumps(header).encode()
    length = rng.choice([2**63, 2**32, 10**9, 0, len(text) + 3]) if kind == 8 else len(text)
    file.write_bytes(struct.pack("<Q", length) + text + data[8 + size :])
    sealed(file.parent)
    return f"{file.name}: header {kind}"


def manifest_of_a_checkpoint(rng: random.Random, folder: Path) -> str:
    """A manifest that names files elsewhere, or none, or others besides."""
    checkpoint = rng.choice(sorted((folder / "checkpoints").glob("step-*")))
    files = json.loads(content(checkpoint / MANIFEST))["files"]
    content(checkpoint / STATE)  # an earlier damage may have made it a pipe, or a link to a device without an end
    told = measure(checkpoint / STATE)
    other = sorted((folder / "checkpoints").glob("step-*"))[0].name
    names = ["../../spec.yaml", "/etc/hostname", "..", "", ".", f"../{other}/{STATE}", "a\0b", "n" * 300, "\x1b[31m"]
    kind = rng.randrange(5)
    if kind == 0:
        sealed(checkpoint, files={**files, rng.choice(names): told})
    elif kind == 1:
        sealed(checkpoint, files={n: t for n, t in files.items() if n != rng.choice([STATE, TENSORS])})
    elif kind == 2:
        sealed(checkpoint, format=rng.choice([2, 3, "1", None, [1], 1.0, True]))
    elif kind == 3:
        (checkpoint / "more.safetensors").write_bytes(content(checkpoint / TENSORS))
    else:
        checkpoint.rename(checkpoint.with_name(rng.choice(["step-99999999999999", "step-1", "step-00000000", "step-\x1b[31m"])))
    return f"manifest {kind}"


def settings(rng: random.Random, folder: Path) -> str:
    """A spec that says something else."""
    file = folder / "spec.yaml"
    lines = content(file).decode().splitlines()
    at = rng.randrange(len(lines))
    key = lines[at].partition(":")[0]
    lines[at] = (
        f"{key}: {rng.choice(['[]', '3', '{}', '*a', '&a [*a]', 'x', '.nan', '[' * 300, '~', '!!binary aGk=', '../../x'])}"
    )
    file.write_text("\n".join(lines))
    return f"spec.yaml: {lines[at][:40]}"


DAMAGES: list[Callable[[random.Random, Path], str]] = [
    bytes_of_a_file,
    another_thing,
    json_of_a_file,
    json_of_a_file,
    header_of_tensors,
    manifest_of_a_checkpoint,
    settings,
]
