"""From another host, in a network namespace: what can be reached of a run here, and what comes of writing there."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from tests.launch.launches import await_
from tests.launch.listeners import table
from tests.launch.namespaces import are_possible, hosts
from tests.launch.test_strangers import Payload

from mapsto.engine.folder import RunFolder
from mapsto.launch.signed_store import STATE

pytestmark = [pytest.mark.network]
RECIPE = Path(__file__).with_name("troubled.py")
TRY = """
import json, socket, sys
host, ports = sys.argv[1], json.loads(sys.argv[2])
def answers(port):
    try:
        socket.create_connection((host, port), timeout=3.0).close()
    except OSError:
        return False
    return True
print(json.dumps([port for port in ports if answers(port)]))
"""
WRITE = """
import base64, sys
from datetime import timedelta
import torch.distributed as dist
store = dist.TCPStore(sys.argv[1], int(sys.argv[2]), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=20))
store.set(sys.argv[3], base64.b64decode(sys.argv[4]))
"""


@pytest.fixture
def two():
    if not are_possible():
        pytest.skip("network namespaces cannot be made here")
    with hosts(2) as found:
        yield found


def ports_of(host):
    """Every TCP port that something on the host listens on."""
    return sorted({port for name in ("tcp", "tcp6") for _, port in table(host.run("cat", f"/proc/net/{name}")).values()})


def reached(by, host, ports):
    """Those of the ports that another host can connect to."""
    return json.loads(by.run(sys.executable, "-c", TRY, host.address, json.dumps(ports)))


def begun(host, tmp_path, *more):
    run = tmp_path / "run"
    words = ["train", RECIPE, "--run", run, "epochs=400", "model.pause=0.05", *more]
    process = host.start(*words, folder=tmp_path, said=tmp_path / "said")
    await_(lambda: list(RunFolder(run).records("log")) or process.poll() is not None, 240)
    assert process.poll() is None, (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["--ranks", 2, "mesh.timeout=60"], id="ranks"),
        pytest.param(["mesh={servers: 1, workers: 1}"], id="servers"),
        pytest.param(["--ranks", 2, "--ray", "local", "mesh.timeout=60"], id="ray"),
    ],
)
def test_nothing_of_a_run_on_one_machine_is_reached_from_another(two, tmp_path, more):
    if more != ["--ranks", 2, "mesh.timeout=60"]:
        pytest.importorskip("ray")
    here, there = two
    begun(here, tmp_path, *more)
    ports = ports_of(here)
    assert len(ports) >= 2
    assert reached(there, here, ports) == []
    code = "import socket, time; s = socket.create_server(('0.0.0.0', 4711)); time.sleep(600)"
    planted = subprocess.Popen(["ip", "netns", "exec", here.name, sys.executable, "-c", code])
    try:
        await_(lambda: 4711 in ports_of(here))
        assert reached(there, here, [*ports, 4711]) == [4711]  # the control
    finally:
        planted.kill()
        planted.wait(20)


def test_a_rendezvous_is_reached_where_it_was_said_and_a_stranger_is_refused(two, tmp_path):
    here, there = two
    meet, proof = f"{here.address}:29500", tmp_path / "RAN"
    words = [
        "train",
        RECIPE,
        "--rendezvous",
        meet,
        "--nodes",
        "1:2",
        "--ranks",
        1,
        "epochs=400",
        "model.pause=0.05",
        "--wait",
        30,
    ]
    first = here.start(*words, "--run", tmp_path / "run", "--node-rank", 0, folder=tmp_path, said=tmp_path / "first")
    await_(lambda: list(RunFolder(tmp_path / "run").records("log")) or first.poll() is not None, 240)
    assert first.poll() is None, (tmp_path / "first").read_text()
    assert 29500 in reached(there, here, ports_of(here))  # it was asked to listen there
    stored = {address for name in ("tcp", "tcp6") for address, _ in table(here.run("cat", f"/proc/net/{name}")).values()}
    assert stored == {here.address}

    # one with another secret: another run folder has another
    other = there.start(*words, "--run", tmp_path / "other", "--node-rank", 1, folder=tmp_path, said=tmp_path / "second")
    assert other.wait(120) == 1
    refusal = f"the rendezvous at {meet} holds, under the key '{STATE}'"
    assert refusal in (tmp_path / "second").read_text()
    assert first.poll() is None

    # one without any, who writes a pickle: it does not run, and the node that trains says so and goes on
    payload = base64.b64encode(base64.b64encode(pickle.dumps(Payload(proof)))).decode()
    write = [sys.executable, "-c", WRITE, here.address, "29500", STATE, payload]
    subprocess.run(["ip", "netns", "exec", there.name, *write], check=True, timeout=120, stderr=subprocess.DEVNULL)
    await_(lambda: refusal in (tmp_path / "first").read_text(), 60)
    before = len(list(RunFolder(tmp_path / "run").records("log")))
    await_(lambda: len(list(RunFolder(tmp_path / "run").records("log"))) > before + 3, 60)
    assert not proof.exists()
    assert os.path.exists(tmp_path / "run" / ".secret")
