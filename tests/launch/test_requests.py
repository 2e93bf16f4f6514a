"""What is asked for on the command line, and what it is checked against."""

from __future__ import annotations

import argparse

import pytest

from mapsto.cli.launching import _likely_wing
from mapsto.core.errors import LaunchError
from mapsto.core.wings import WINGS, Framework
from mapsto.launch.request import Address, MeshSize, Request, Span, check_devices, check_mesh, mesh_size


@pytest.mark.parametrize(("text", "span"), [("4", (4, 4)), ("2:4", (2, 4)), (" 1:1 ", (1, 1))])
def test_spans(text, span):
    found = Span.parse(text, "--ranks")
    assert (found.low, found.high) == span
    assert found.fixed == (span[0] == span[1])


@pytest.mark.parametrize("text", ["0", "4:2", "x", "-1", "", "1:2:3", "2.5"])
def test_what_is_no_span(text):
    with pytest.raises(LaunchError, match="--ranks .*at least 1 is wanted"):
        Span.parse(text, "--ranks")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("a:1234", "a", 1234), ("node-0", "node-0", 29500), ("[::1]:80", "::1", 80), ("10.0.0.1:9", "10.0.0.1", 9)],
)
def test_addresses(text, host, port):
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["a:0", "a:70000", "a:b", "", ":80", "a b:1", "::1:80"])
def test_what_is_no_address(text):
    with pytest.raises(LaunchError, match="HOST:PORT is wanted"):
        Address.parse(text)


MEET = Address("a", 1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"nodes": Span(2, 2)}, "say where they meet: --rendezvous"),
        ({"nodes": Span(2, 2), "rendezvous": MEET, "node_rank": 2}, "of 2 nodes it is 0 to 1"),
        ({"restarts": -1}, "the least is 0"),
        ({"wait": 0.0}, "seconds above 0"),
        ({"nodes": Span(1, 2), "rendezvous": MEET, "ranks": Span(1, 2)}, "cannot both be a range"),
    ],
)
def test_requests_that_cannot_be(given, told):
    with pytest.raises(LaunchError, match=told):
        Request(**{"ranks": Span(1, 1), **given})


def test_worlds():
    request = Request(Span(4, 4), Span(1, 3), rendezvous=MEET)
    assert str(request.world) == "4 to 12"
    assert request.elastic
    assert not Request(Span(4, 4)).elastic


@pytest.mark.parametrize(
    ("axes", "size"),
    [
        (None, None),
        ({"timeout": 3.0}, None),
        ({"replicate": 2, "shard": 3}, (6, False)),
        ({"replicate": -1, "tensor": 2}, (2, True)),
        ({"replicate": True}, None),
    ],
)
def test_the_size_of_a_mesh(axes, size):
    found = mesh_size(axes)
    assert (found and (found.ranks, found.open)) == size


def test_ranks_that_a_mesh_is_not_made_of():
    fixed, rest = MeshSize(4, False, "replicate 2 x shard 2"), MeshSize(2, True, "replicate -1 x tensor 2")
    for ranks, mesh in ((Span(4, 4), fixed), (Span(6, 6), rest), (Span(2, 4), rest), (Span(3, 3), None)):
        check_mesh(Request(ranks), mesh)
    with pytest.raises(LaunchError, match=r"replicate 2 x shard 2 is 4 ranks, and 3 are asked for; --ranks 4"):
        check_mesh(Request(Span(3, 3)), fixed)
    with pytest.raises(LaunchError, match=r"divides into multiples of 2, and 3 are asked for"):
        check_mesh(Request(Span(3, 3)), rest)
    with pytest.raises(LaunchError, match=r"no more and no fewer, so it cannot go on with 2 to 4"):
        check_mesh(Request(Span(2, 4)), fixed)


def test_more_ranks_than_devices():
    check_devices(Request(Span(8, 8)), "cpu", 0)
    check_devices(Request(Span(4, 4)), "cuda", 4)
    with pytest.raises(LaunchError, match=r"--ranks 8: this node has 4 cuda devices, one a rank; ask for at most 4"):
        check_devices(Request(Span(8, 8)), "cuda", 4)


@pytest.mark.parametrize(
    ("words", "text", "wing"),
    [
        (["spec.yaml"], "wing: toy\nmodel: m\n", "toy"),
        (["spec.yaml"], "model: m\n", "torch"),
        (["spec.yaml"], "wing: nowhere\n", "torch"),
        (["spec.yaml", "wing=toy"], "model: m\n", "toy"),
        (["recipe.py:spec"], "def spec():\n    return Spec(\n        wing='toy',\n    )\n", "toy"),
        (["package.module:spec"], "", "torch"),
    ],
)
def test_the_wing_that_ranks_preload_is_read_from_the_words(tmp_path, monkeypatch, words, text, wing):
    monkeypatch.setitem(WINGS, "toy", Framework(name="toy"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / words[0].partition(":")[0]).write_text(text)
    assert _likely_wing(argparse.Namespace(resume=None, words=words)) == wing
    (tmp_path / "runs" / "one" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "spec.yaml").write_text(text)
    for place in ("runs/one", "runs/one/checkpoints/step-00000001"):
        assert _likely_wing(argparse.Namespace(resume=place, words=words[1:])) == wing
