"""Real processes under MultiWorkerMirroredStrategy, on loopback: they give the result of one device."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import make_strategy
from test_step import STEPS, assert_equal, train_small

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STEPS_OF_THE_RUN = 12
HANGS = 300
"""Seconds after which a process no longer takes long, but hangs."""


def tf_configs(num_workers):
    """TF_CONFIG of each worker, on free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_workers)]
    workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
        for index in range(num_workers)
    ]


def _run_workers(folder, num_replicas, options):
    """The output of each of two workers."""
    processes, outputs = [], []
    for index, config in enumerate(tf_configs(2)):
        outputs.append(folder / f"{index}.npz")
        command = [sys.executable, Path(__file__).with_name("worker.py"), str(num_replicas), outputs[-1]]
        with (folder / f"{index}.log").open("w") as log:
            environment = {**os.environ, "TF_CONFIG": config}
            processes.append(subprocess.Popen([*command, json.dumps(options)], env=environment, stdout=log, stderr=log))
    for index, process in enumerate(processes):
        assert process.wait(timeout=HANGS) == 0, (folder / f"{index}.log").read_text()[-3000:]
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
        assert worker["total loss"] == pytest.approx(totals.losses["loss"], rel=1e-5)
        assert np.abs(worker["total confusion"] - totals.confusion).sum() <= 4
        assert (bool(worker["flag nobody"]), bool(worker["flag the last"])) == (False, True)
    assert [bool(worker["is_chief"]) for worker in workers] == [True, False]


def test_micro_batches_on_two_workers_equal_one_device(tmp_path):
    options = {"loss_name": "cross_entropy_dice", "frozen": True}
    weights, _ = train_small(make_strategy(1), **options)
    (worker, _) = _run_workers(tmp_path, 1, {**options, "step_options": {"accumulate_steps": 2}})
    assert_equal(weights, {path: worker[path] for path in weights}, rtol=1e-6)


def _start(folder, shapes_dir, configs):
    """Starts two workers of train.py; the chief writes the shards. The output of each goes to WORKER.log."""
    command = [
        *(sys.executable, "train.py", f"--voc_dir={shapes_dir}", f"--tfrecord_dir={folder}/shards"),
        *(f"--model_dir={folder}/run", "--backbone=mobilenet_v2", "--backbone_weights=none", "--crop_size=65"),
        *("--global_batch_size=4", f"--train_steps={STEPS_OF_THE_RUN}", "--eval_every_epochs=0", "--num_gpus=0"),
        *("--log_every_steps=1", "--checkpoint_steps=2", "--deterministic"),
    ]
    processes = []
    for index, config in enumerate(configs):
        with (folder / f"{index}.log").open("w") as log:
            environment = {**os.environ, "TF_CONFIG": config}
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return processes


def _wait_for(folder, text, process):
    """Waits until the chief logs the text."""
    while text not in (folder / "0.log").read_text():
        assert process.poll() is None, (folder / "0.log").read_text()[-3000:]
        time.sleep(0.01)


def _last_line(folder, index):
    return (folder / f"{index}.log").read_text().splitlines()[-1]


def test_workers_that_are_killed_or_stopped_resume_together(shapes_dir, tmp_path):
    """One is killed: the other ends with a reason. One gets a signal: both stop after one step. Then they finish.

    How many steps they make before the kill or signal arrives depends on the machine, but there is a limit: they wait
    for each other.
    """
    chief, other = _start(tmp_path, shapes_dir, tf_configs(2))
    _wait_for(tmp_path, f"step 3/{STEPS_OF_THE_RUN}", chief)
    other.kill()
    assert chief.wait(timeout=HANGS) == 1
    assert _last_line(tmp_path, 0).startswith("train.py: another worker was lost (")

    chief, other = _start(tmp_path, shapes_dir, tf_configs(2))
    _wait_for(tmp_path, " at step ", chief)
    resumed = _resumed_step(tmp_path)
    assert 2 <= resumed < STEPS_OF_THE_RUN
    _wait_for(tmp_path, f"step {resumed + 1}/{STEPS_OF_THE_RUN}", chief)
    other.send_signal(signal.SIGUSR1)
    assert (chief.wait(timeout=HANGS), other.wait(timeout=HANGS)) == (75, 75)
    steps = [re.search(r"stopped after step (\d+),", _last_line(tmp_path, index)).group(1) for index in range(2)]
    assert steps[0] == steps[1]

    for process in _start(tmp_path, shapes_dir, tf_configs(2)):
        assert process.wait(timeout=HANGS) == 0
    assert _resumed_step(tmp_path) == int(steps[0])
    assert f"step {STEPS_OF_THE_RUN}/{STEPS_OF_THE_RUN}" in (tmp_path / "0.log").read_text()


def _resumed_step(folder):
    """The step of the checkpoint from which the chief resumed."""
    return int(re.search(r"ckpt-(\d+) at step \1\b", (folder / "0.log").read_text()).group(1))
