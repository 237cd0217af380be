"""Real processes under MultiWorkerMirroredStrategy, on loopback: they give the result of one device."""

import json
import os
import re
import signal
import socket
import time

import numpy as np
import pytest
from conftest import make_strategy
from forked import HANGS, start
from small_step import STEPS, assert_equal, train_small

pytestmark = pytest.mark.slow

STEPS_OF_THE_RUN = 40


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


OPTIONS = {
    "sgd-clipped": {"optimizer_name": "sgd", "step_options": {"clip_norm": 0.05}},
    "adamw": {"optimizer_name": "adamw", "loss_name": "cross_entropy_dice"},
}
MICRO_BATCHES = {"loss_name": "cross_entropy_dice", "frozen": True}


def _run_workers(folder, num_replicas, options_by_name):
    """What each of two workers wrote, by the name of the options."""
    processes = []
    for index, config in enumerate(tf_configs(2)):
        place = folder / str(index)
        place.mkdir()
        arguments = ("tests/worker.py", num_replicas, place, json.dumps(options_by_name))
        processes.append(start(place, *arguments, environment={"TF_CONFIG": config}))
    for index, process in enumerate(processes):
        process.join(HANGS)
        assert process.exitcode == 0, (folder / str(index) / "stderr").read_text()[-3000:]
    return [{name: dict(np.load(folder / str(index) / f"{name}.npz")) for name in options_by_name} for index in (0, 1)]


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_two_workers_equal_one_device(tmp_path, num_replicas):
    options_by_name = dict(OPTIONS)
    if num_replicas == 1:  # with more, a replica has one image of the batch
        options_by_name["micro"] = {**MICRO_BATCHES, "step_options": {"accumulate_steps": 2}}
    workers = _run_workers(tmp_path, num_replicas, options_by_name)
    for name, options in OPTIONS.items():
        weights, totals = train_small(make_strategy(1), **options)
        for worker in (each[name] for each in workers):
            assert worker["replicas"] == 2 * num_replicas
            assert_equal(weights, {path: worker[path] for path in weights}, rtol=1e-5)
            assert worker["total steps"] == STEPS
            assert worker["total loss"] == pytest.approx(totals.losses["loss"], rel=1e-5)
            assert np.abs(worker["total confusion"] - totals.confusion).sum() <= 4
            assert (bool(worker["flag nobody"]), bool(worker["flag the last"])) == (False, True)
        assert [bool(worker[name]["is_chief"]) for worker in workers] == [True, False]
    if num_replicas == 1:
        weights, _ = train_small(make_strategy(1), **MICRO_BATCHES)
        micro = workers[0]["micro"]
        assert_equal(weights, {path: micro[path] for path in weights}, rtol=1e-6)


def _start(folder, shapes_dir, configs):
    """Starts two workers of train.py; the chief writes the shards. The output of each goes to WORKER/stderr."""
    command = [
        *("train.py", f"--voc_dir={shapes_dir}", f"--tfrecord_dir={folder}/shards"),
        *(f"--model_dir={folder}/run", "--backbone=tiny", "--backbone_weights=none", "--crop_size=65"),
        *("--global_batch_size=4", f"--train_steps={STEPS_OF_THE_RUN}", "--eval_every_epochs=0", "--num_gpus=0"),
        *("--log_every_steps=1", "--checkpoint_steps=2", "--deterministic"),
    ]
    processes = []
    for index, config in enumerate(configs):
        (folder / str(index)).mkdir(exist_ok=True)
        (folder / str(index) / "stderr").unlink(missing_ok=True)
        processes.append(start(folder / str(index), *command, environment={"TF_CONFIG": config}))
    return processes


def _wait_for(folder, text, process):
    """Waits until the chief logs the text."""
    log = folder / "0" / "stderr"
    while not (log.exists() and text in log.read_text()):
        assert process.is_alive(), log.read_text()[-3000:]
        time.sleep(0.01)


def _end(process):
    """The exit status of a process that is about to end."""
    process.join(HANGS)
    return process.exitcode


def _last_line(folder, index):
    return (folder / str(index) / "stderr").read_text().splitlines()[-1]


def test_workers_that_are_killed_or_stopped_resume_together(shapes_dir, tmp_path):
    """One is killed: the other ends with a reason. One gets a signal: both stop after one step. Then they finish.

    How many steps they make before the kill or signal arrives depends on the machine, but there is a limit: they wait
    for each other.
    """
    chief, other = _start(tmp_path, shapes_dir, tf_configs(2))
    _wait_for(tmp_path, f"step 3/{STEPS_OF_THE_RUN}", chief)
    other.kill()
    assert _end(chief) == 1
    assert _last_line(tmp_path, 0).startswith("train.py: another worker was lost (")

    chief, other = _start(tmp_path, shapes_dir, tf_configs(2))
    _wait_for(tmp_path, " at step ", chief)
    resumed = _resumed_step(tmp_path)
    assert 2 <= resumed < STEPS_OF_THE_RUN
    _wait_for(tmp_path, f"step {resumed + 1}/{STEPS_OF_THE_RUN}", chief)
    os.kill(other.pid, signal.SIGUSR1)
    assert (_end(chief), _end(other)) == (75, 75)
    steps = [re.search(r"stopped after step (\d+),", _last_line(tmp_path, index)).group(1) for index in range(2)]
    assert steps[0] == steps[1]

    for process in _start(tmp_path, shapes_dir, tf_configs(2)):
        assert _end(process) == 0
    assert _resumed_step(tmp_path) == int(steps[0])
    assert f"step {STEPS_OF_THE_RUN}/{STEPS_OF_THE_RUN}" in (tmp_path / "0" / "stderr").read_text()


def _resumed_step(folder):
    """The step of the checkpoint from which the chief resumed."""
    return int(re.search(r"ckpt-(\d+) at step \1\b", (folder / "0" / "stderr").read_text()).group(1))
