"""Who reaches the port of a rendezvous, or of ranks, can write there; nobody runs or believes it."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from tests.launch.launches import command

from mapsto.core.errors import LaunchError, MapstoError
from mapsto.core.signing import sign, verified
from mapsto.launch.network import free_port
from mapsto.launch.secret import FILE, secret_of
from mapsto.launch.signed_store import LARGEST, STATE, Refused, Signature, StateBackend, signed_store

dist = pytest.importorskip("torch.distributed")
SECRET, OTHER = b"a secret of this run", b"a secret of another run"


class Payload:
    """A pickle that makes a file where it is read."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return (os.system, (f"touch {self.proof}",))


def backend(store, secret=SECRET):
    return StateBackend(store, Signature(secret, "node-0:29500"))


def state(rounds=0):
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    made, node, late = _RendezvousState(), _NodeDesc("10.0.0.1", 7, 0), _NodeDesc("10.0.0.2", 8, 0)
    made.round, made.complete, made.deadline = rounds, True, datetime.now(UTC)
    made.participants, made.wait_list, made.last_heartbeats = {node: 0}, {late}, {node: datetime.now(UTC)}
    return made


def test_nodes_read_each_others_state_as_it_was_written():
    store, wanted = dist.HashStore(), state(3)
    one, two = backend(store), backend(store)
    assert one.get_state() is None
    written, _, ours = one.set_state(pickle.dumps(wanted))
    assert ours
    assert vars(pickle.loads(written)) == vars(wanted)
    read, token = two.get_state()
    assert vars(pickle.loads(read)) == vars(wanted)
    assert two.set_state(pickle.dumps(state(4)), token)[2]
    current, _, ours = one.set_state(pickle.dumps(state(9)), token)  # it was faster
    assert not ours
    assert pickle.loads(current).round == 4
    assert json.loads(store.get(STATE)[64:])["round"] == 4  # words of JSON after the code


def test_a_strangers_pickle_is_named_and_does_not_run(tmp_path):
    store = dist.HashStore()
    store.set(STATE, base64.b64encode(pickle.dumps(Payload(tmp_path / "RAN"))))
    with pytest.raises(
        Refused, match=r"the rendezvous at node-0:29500 holds, under the key 'torch.rendezvous.mapsto', \d+ bytes"
    ):
        backend(store).get_state()
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("value", [b"", b"\xff" * 100, b"0" * 64, b"0" * 64 + b"{}", b"x" * (LARGEST + 1)])
def test_bytes_without_the_code_are_refused(value):
    store = dist.HashStore()
    store.set(STATE, value)
    with pytest.raises(Refused, match=f"{len(value)} bytes that no node of this run wrote"):
        backend(store).get_state()


@pytest.mark.parametrize("data", ["[]", "{}", "1", '{"number": 1}', "[" * 100_000, '{"number": 1e400}'])
def test_what_is_signed_and_no_state_is_refused(data):
    store = dist.HashStore()
    store.set(STATE, Signature(SECRET, "").sign(STATE, data.encode()))
    with pytest.raises(Refused, match="no state of a rendezvous"):
        backend(store).get_state()


def test_a_state_of_another_secret_a_state_of_the_past_and_a_removed_one_are_refused():
    store = dist.HashStore()
    mine = backend(store)
    _, old, _ = mine.set_state(pickle.dumps(state(1)))
    with pytest.raises(Refused, match="given another secret"):
        backend(store, OTHER).get_state()
    _, new, _ = mine.set_state(pickle.dumps(state(2)), old)
    store.set(STATE, old.decode())
    with pytest.raises(Refused, match="a state of the past"):
        mine.get_state()
    backend(store).get_state()  # to one that comes now it is as good as any: the control
    store.set(STATE, new.decode())
    store.delete_key(STATE)
    with pytest.raises(Refused, match="somebody has removed it"):
        mine.set_state(pickle.dumps(state(3)), new)


def test_a_value_is_good_for_its_key_and_its_team_alone():
    store, signature = dist.HashStore(), Signature(SECRET, "node-0:29500")
    signed = signed_store(store, signature)
    within = dist.PrefixStore("round/1", signed)
    within.set("node/0", b"hello")
    assert within.get("node/0") == b"hello"
    store.set("round/1/node/1", store.get("round/1/node/0"))
    with pytest.raises(Refused, match="under the key 'round/1/node/1'"):
        within.get("node/1")
    signature.context = b"another team"
    with pytest.raises(Refused):
        within.get("node/0")


def test_a_code_covers_the_purpose_and_all_of_the_message():
    signed = sign(SECRET, b"one", b"two")
    assert verified(SECRET, b"one", signed) == b"two"
    assert verified(SECRET, b"on", sign(SECRET, b"one", b"two")[:32] + b"etwo") is None
    for place in range(len(signed)):
        assert verified(SECRET, b"one", signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]) is None
        assert verified(SECRET, b"one", signed[:place]) is None


# -- the secret --------------------------------------------------------------------------------------------------------
def test_the_secret_of_a_run_is_made_once_and_for_its_owner_alone(tmp_path):
    first = secret_of(None, {}, tmp_path / "run")
    assert len(first) == 64
    assert secret_of(None, {}, tmp_path / "run") == first
    assert (tmp_path / "run" / FILE).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in (tmp_path / "run").iterdir()] == [FILE]
    assert secret_of(None, {}, tmp_path / "other") != first
    assert secret_of(None, {"MAPSTO_SECRET": "0123456789abcdef"}, tmp_path / "run") == b"0123456789abcdef"


def test_a_secret_that_is_none_is_told_in_one_line(tmp_path):
    file = tmp_path / "secret"
    with pytest.raises(LaunchError, match="there is no such file"):
        secret_of(str(file), {}, None)
    file.write_text("short")
    file.chmod(0o600)
    with pytest.raises(LaunchError, match="at least 16 characters, and this has 5"):
        secret_of(str(file), {}, None)
    file.write_text("0123456789abcdef\n")
    assert secret_of(str(file), {"MAPSTO_SECRET": "another that is long"}, None) == b"0123456789abcdef"
    file.chmod(0o644)
    with pytest.raises(LaunchError, match=r"others may read or write it \(mode 644\): chmod 600"):
        secret_of(str(file), {}, None)
    with pytest.raises(LaunchError, match="say --run FOLDER"):
        secret_of(None, {}, None)
    (tmp_path / FILE).symlink_to(file)
    with pytest.raises(LaunchError, match="cannot be read"):
        secret_of(None, {}, tmp_path)


# -- the whole ---------------------------------------------------------------------------------------------------------
def test_a_node_that_meets_a_stranger_ends_and_names_the_key(tmp_path):
    meet, proof = f"127.0.0.1:{free_port('127.0.0.1')}", tmp_path / "RAN"
    words = [sys.executable, "-m", "mapsto.launch.store", meet]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as store:
        try:
            assert store.stdout is not None
            store.stdout.readline()
            host, port = meet.split(":")
            client = dist.TCPStore(host, int(port), is_master=False, wait_for_workers=False)
            client.set(STATE, base64.b64encode(pickle.dumps(Payload(proof))))
            more = ["--ranks", 1, "--nodes", "1:2", "--rendezvous", meet, "--run", tmp_path / "run", "--wait", 20]
            recipe = tmp_path / "spec.yaml"
            recipe.write_text(
                "model: {use: 'torch.nn:Linear', in_features: 2, out_features: 2}\n"
                "data: {train: {source: {use: arrays, input: [[1.0, 2.0]], target: [0]}, batch_size: 1}}\n"
                "task: classification\noptimizer: {use: sgd, lr: 0.1}\nsteps: 1\n"
            )
            with command("train", recipe, *more, folder=tmp_path) as node:
                said, _ = node.communicate(timeout=100)
            assert node.returncode == 1
            assert f"the rendezvous at {meet} holds, under the key '{STATE}'" in said
            assert not proof.exists()
        finally:
            store.kill()


def test_an_object_that_no_rank_wrote_is_not_unpickled(tmp_path):
    import torch

    from mapsto.torch.mesh import signed

    c10d, device = dist.distributed_c10d, torch.device("cpu")
    planted, size = c10d._object_to_tensor(Payload(tmp_path / "RAN"), device, None)
    try:
        signed.sign_objects(SECRET)
        ours, length = c10d._object_to_tensor({"a": [1, 2]}, device, None)
        assert c10d._tensor_to_object(ours, length, None) == {"a": [1, 2]}
        with pytest.raises(MapstoError, match="not written by a rank of this run"):
            c10d._tensor_to_object(planted, size, None)
        signed.sign_objects(OTHER)
        with pytest.raises(MapstoError, match="different secrets"):
            c10d._tensor_to_object(ours, length, None)
    finally:
        signed.sign_objects(None)
    assert not (tmp_path / "RAN").exists()
    c10d._tensor_to_object(planted, size, None)  # the control: as torch does it
    assert (tmp_path / "RAN").exists()
