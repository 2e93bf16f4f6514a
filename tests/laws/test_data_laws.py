"""Laws of data: examples that are found, what is asked for where none can be, foreign readers, expected vacuity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

import mapsto
from mapsto.core.laws import Example, Subject, Trial, find_law, laws_for, verdict
from mapsto.core.registry import registry
from mapsto.data import Batches, Loader
from mapsto.testing import laws_of

OWN = [
    e.key
    for kind in ("source", "order", "reader", "transform")
    for e in registry.entries(kind)
    if e.origin.startswith("mapsto")
]


@laws_of(*OWN, thorough=True)
def test_our_own_keep_them(law):
    law()


def a_loader(source, batch_size=4, shuffle=False, workers=0, limit=None, rank=0, world_size=1, seed=0):
    """A reader in the place of a DataLoader."""
    reader = Batches(source, batch_size, shuffle=shuffle, workers=workers, limit=limit, seed=seed)
    return Loader(reader, rank=rank, world_size=world_size)


mapsto.example(a_loader, expect={"reader.shards": "a rank that would get no record of a batch is told, before it is trained"})


@laws_of(a_loader, kind="reader", thorough=True)
def test_a_loader_keeps_the_laws_of_readers(law):
    law()


def judged(kind, law, target, **fields):
    subject = Subject(kind=kind, label=f"here:{target.__name__}", reference="", target=target, example=Example(**fields))
    return verdict(Trial(subject, find_law(law)))


class Needs:
    def __init__(self, server):
        self.server = server


@pytest.mark.parametrize(
    ("kind", "law", "asked"),
    [
        ("source", "source.gather", "mapsto.example(Needs, args={...})  # or in_folder="),
        ("order", "order.bijection", "mapsto.example(Needs, args={...})"),
        ("reader", "reader.shards", "mapsto.example(Needs, args={...}, records=lambda n: {'source': ...})"),
        ("transform", "transform.purity", "mapsto.example(Needs, args={...})"),
    ],
)
def test_what_must_be_written_is_said(kind, law, asked):
    made = judged(kind, law, Needs)
    assert made.status == "unknown"
    assert "server" in made.reason
    assert asked in made.reason


def test_a_transform_that_takes_no_guessed_batch():
    def odd(batch):
        return {"sound": batch["sound"] * 2}

    made = judged("transform", "transform.purity", odd)
    assert made.status == "unknown"
    assert "it took none of images, vectors, texts" in made.reason
    assert "inputs=lambda size, rng" in made.reason
    stated = judged("transform", "transform.purity", odd, inputs=lambda size, rng: ({"sound": rng.random((size, 4))},))
    assert stated.status == "pass"


def test_an_empty_reader():
    made = judged("reader", "reader.shards", dict)
    assert made.status == "fail"
    assert made.reason == "an epoch holds no record"


def test_no_reader_at_all():
    made = judged("reader", "reader.shards", object)
    assert made.status == "unknown"
    assert "neither batch(position, shard, shards)" in made.reason


def loader(dataset, rank=0, world_size=1, seed=0):
    """A DataLoader with the sampler that its documentation recommends."""
    sampler = DistributedSampler(range(len(dataset)), world_size, rank, shuffle=True, seed=seed)
    return DataLoader(torch.arange(len(dataset)), batch_size=3, sampler=sampler)


def test_what_is_known_of_torch_data_loaders_is_found():
    padded = judged("reader", "reader.shards", loader)
    assert padded.status == "fail"
    assert padded.witness.cause == "tail records are repeated to make the shards even"
    assert judged("reader", "reader.shards", loader, more={"padding": "repeat"}).status == "pass"
    assert judged("reader", "reader.epochs", loader).status == "pass"  # the driver calls set_epoch
    streams = judged("reader", "reader.private_streams", loader)
    assert streams.status == "fail"
    assert "PyTorch's" in streams.reason
    assert judged("reader", "reader.resume", loader).status == "not applicable"


def test_reading_torch_is_not_needed(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from mapsto.core.laws import Example, Subject, Trial, find_law, verdict\n"
        "from mapsto.data.reader import Batches\n"
        "for law in ('reader.private_streams', 'reader.resume'):\n"
        "    subject = Subject(kind='reader', label='batches', reference='', target=Batches, example=Example())\n"
        "    assert verdict(Trial(subject, find_law(law))).status == 'pass'\n"
        "print('torch' in sys.modules)\n"
    )
    from importlib import metadata

    wanted = {p.name for p in metadata.entry_points(group="mapsto") if p.name.startswith("law/")}
    only = "import mapsto.core.laws as laws\nfrom mapsto.data.laws.reader import laws as a\n"
    only += "from mapsto.data.laws.reader_epochs import laws as b\n"
    only += "laws.find_law = lambda name: next(w for w in (*a(), *b()) if w.name == name)\n"
    done = subprocess.run([sys.executable, "-c", only + code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "False\n", done.stderr
    assert {"law/reader", "law/source", "law/order", "law/transform"} <= wanted


class Alike:
    """Records that are all alike cannot show in which order they came."""

    vectorised = True

    def __len__(self):
        return 5

    def __getitem__(self, indices):
        return {"input": np.zeros((len(indices), 2))}


def test_records_that_cannot_be_told_apart_prove_nothing():
    assert judged("source", "source.gather", Alike).status == "vacuous"


def test_stated_arguments_are_kept_and_limited():
    seen = []

    class Counted(mapsto.data.reader.Batches):
        def batch(self, position, shard=0, shards=1):
            seen.append(position)
            return super().batch(position, shard, shards)

    source = {"id": np.arange(100_000)}
    made = judged("reader", "reader.shards", Counted, args={"source": source, "batch_size": 7, "workers": 0})
    assert made.status == "pass"
    assert max(seen) < 2 * 5  # 29 records, 5 batches an epoch


def test_every_data_law_has_a_cause_and_a_remedy():
    for kind in ("source", "order", "reader", "transform"):
        for law in laws_for(kind, priority=2):
            assert law.why
            assert law.satisfy
            assert law.catches
