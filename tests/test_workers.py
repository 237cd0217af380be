"""Real processes under MultiWorkerMirroredStrategy, on loopback: they compute what one device computes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_strategy
from test_step import STEPS, assert_equal, train_small

pytestmark = pytest.mark.slow


def tf_configs(num_workers):
    """TF_CONFIG of each worker, on ports that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_workers)]
    workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
        for index in range(num_workers)
    ]


def _run_workers(folder, num_replicas, options):
    """What each of two workers wrote."""
    processes, outputs = [], []
    for index, config in enumerate(tf_configs(2)):
        outputs.append(folder / f"{index}.npz")
        command = [sys.executable, Path(__file__).with_name("worker.py"), str(num_replicas), outputs[-1]]
        with (folder / f"{index}.log").open("w") as log:
            environment = {**os.environ, "TF_CONFIG": config}
            processes.append(subprocess.Popen([*command, json.dumps(options)], env=environment, stdout=log, stderr=log))
    for index, process in enumerate(processes):
        assert process.wait(timeout=240) == 0, (folder / f"{index}.log").read_text()[-3000:]
    return [dict(np.load(output)) for output in outputs]


@pytest.mark.parametrize("num_replicas", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer_name": "sgd", "step_options": {"clip_norm": 0.05}},
        {"optimizer_name": "adamw", "loss_name": "cross_entropy_dice"},
    ],
    ids=["sgd-clipped", "adamw"],
)
def test_two_workers_equal_one_device(tmp_path, options, num_replicas):
    weights, totals = train_small(make_strategy(1), **options)
    workers = _run_workers(tmp_path, num_replicas, options)
    for worker in workers:
        assert worker["replicas"] == 2 * num_replicas
        assert_equal(weights, {path: worker[path] for path in weights}, rtol=1e-5)
        assert worker["total steps"] == STEPS
        assert worker["total loss"] == pytest.approx(totals["loss"], rel=1e-5)
        assert np.abs(worker["total confusion"] - totals["confusion"]).sum() <= 4
        assert (bool(worker["flag nobody"]), bool(worker["flag the last"])) == (False, True)
    assert [bool(worker["is_chief"]) for worker in workers] == [True, False]


def test_micro_batches_on_two_workers_equal_one_device(tmp_path):
    options = {"loss_name": "cross_entropy_dice", "frozen": True}
    weights, _ = train_small(make_strategy(1), **options)
    (worker, _) = _run_workers(tmp_path, 1, {**options, "step_options": {"accumulate_steps": 2}})
    assert_equal(weights, {path: worker[path] for path in weights}, rtol=1e-6)
