"""A campaign of faults: kills, signals, damaged checkpoints, a full disk, lost workers; each followed by a restart.

python bench/checks/faults.py FOLDER [kill|signal|damage|disk|worker ...]

Every run trains the demo's network on synthetic shapes with --deterministic and suffers several faults, one after
another. After each fault it is restarted with the same command; at the end it is left to finish. It has survived if its
final weights and optimizer are bit for bit those of an uninterrupted run. Two runs are active at a time. Prints a table
and a JSON line; exit status 1 unless all survived.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from deeplab.data.source import shapes

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24
FLAGS = (
    *("--backbone=mobilenet_v2", "--backbone_weights=none", "--num_gpus=0", "--crop_size=65", "--global_batch_size=4"),
    *(f"--train_steps={STEPS}", "--learning_rate=0.02", "--batch_norm_momentum=0.8", "--log_every_steps=1"),
    *("--checkpoint_steps=4", "--eval_every_epochs=2", "--num_shards=8", "--deterministic"),
)
RESTARTS = 3
SECONDS_TO_NOTICE = 60
"""Time for a worker to notice that another one is gone."""
MINUTES = 10
"""A start that takes longer counts as hung."""


class Run:
    """A run in its own folder, by one process or two workers; their output is kept in WORKER.log."""

    def __init__(self, folder: Path, data: Path, num_workers: int = 1) -> None:
        self.folder = folder
        self._num_workers = num_workers
        folder.mkdir(parents=True)
        self._command = [
            *(sys.executable, "train.py", f"--voc_dir={data}", f"--tfrecord_dir={folder}/shards"),
            *(f"--model_dir={folder}/run", *FLAGS),
        ]

    def start(self, max_file_bytes: int | None = None) -> list[subprocess.Popen]:
        """Starts the processes, with an optional limit on file sizes that acts like a full disk."""
        limit = ["prlimit", f"--fsize={max_file_bytes}"] if max_file_bytes else []
        processes = []
        for index, config in enumerate(_tf_configs(self._num_workers)):
            with (self.folder / f"{index}.log").open("a") as log:
                environment = {**os.environ, "TF_CONFIG": config} if config else None
                processes.append(
                    subprocess.Popen([*limit, *self._command], cwd=ROOT, env=environment, stdout=log, stderr=log)
                )
        return processes

    def wait(self, processes: list[subprocess.Popen]) -> list[int]:
        """Their exit statuses; -SIGALRM for a process that hung and was killed."""
        statuses = []
        for process in processes:
            try:
                statuses.append(process.wait(timeout=60 * MINUTES))
            except subprocess.TimeoutExpired:
                process.kill()
                statuses.append(-signal.SIGALRM)
        return statuses

    def finish(self) -> bool:
        """Restarts the run until it is done; returns whether it finished."""
        return any(set(self.wait(self.start())) == {0} for _ in range(RESTARTS))

    def says(self, text: str, worker: int = 0) -> bool:
        """Whether a worker's output contains the text."""
        path = self.folder / f"{worker}.log"
        return path.exists() and text in path.read_text()

    def weights(self) -> str:
        """SHA-256 of all variables in the last step's checkpoint."""
        reader = tf.train.load_checkpoint(str(self.folder / "run" / "checkpoints" / "latest" / f"ckpt-{STEPS}"))
        checksum = hashlib.sha256()
        for name in sorted(reader.get_variable_to_shape_map()):
            if "VARIABLE_VALUE" in name and not name.startswith("save_counter"):
                checksum.update(name.encode() + reader.get_tensor(name).tobytes())
        return checksum.hexdigest()


def _tf_configs(num_workers: int) -> list[str]:
    if num_workers == 1:
        return [""]
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_workers)]
    workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    cluster = {"worker": workers}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": n}}) for n in range(num_workers)]


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.002)


def kill(run: Run, rng: random.Random, moment: str, steps: range) -> None:
    """`kill -9` during the activity that `moment` names, at one of the steps."""
    (process,) = run.start()
    step = rng.choice(steps) if steps else 0
    checkpoints = run.folder / "run" / "checkpoints"
    if moment == "writing shards":
        _wait_until(lambda: any((run.folder / "shards").glob(".train*.part")), process)
        time.sleep(rng.uniform(0, 0.05))
    elif moment == "saving":
        _wait_until(lambda: any(checkpoints.glob(f"*/ckpt-{step}*")), process)
        time.sleep(rng.uniform(0, 0.02))
    elif moment == "starting":
        time.sleep(rng.uniform(0, 15))
    else:
        _wait_until(lambda: run.says(f"step {step}/{STEPS}"), process)
        time.sleep(rng.uniform(0, 0.8))
    process.kill()
    process.wait()


def stop(run: Run, rng: random.Random, name: str, steps: range) -> str | None:
    """Sends a signal after one of the steps; returns what is wrong with the exit status, if anything."""
    (process,) = run.start()
    step = rng.choice(steps)
    _wait_until(lambda: run.says(f"step {step}/{STEPS}"), process)
    time.sleep(rng.uniform(0, 0.3))
    process.send_signal(signal.Signals[name])
    (status,) = run.wait([process])
    return None if status == 75 else f"exit status {status}"


def damage_newest(run: Run, rng: random.Random, way: str, steps: range) -> None:
    """`kill -9` after a step, then damages the newest checkpoint."""
    kill(run, rng, "training", steps)
    folder = run.folder / "run" / "checkpoints" / "latest"
    newest = max(folder.glob("ckpt-*.index"), key=lambda path: int(path.stem.partition("-")[2]))
    index = newest
    data = newest.with_suffix(".data-00000-of-00001")
    file = index if way.endswith("index") else data
    content = bytearray(file.read_bytes())
    if way.startswith("flip"):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif way.startswith("cut"):
        del content[rng.randrange(len(content)) :]
    elif way.startswith("empty"):
        content.clear()
    elif way.startswith("zeros"):
        start = rng.randrange(len(content) // 2)
        content[start : start + 512] = bytes(min(512, len(content) - start))
    elif way.startswith("insert"):
        place = rng.randrange(len(content))
        content[place:place] = b"\x55" * 16
    if way == "no list":
        (folder / "checkpoint").unlink()
    elif way == "broken list":
        (folder / "checkpoint").write_bytes(rng.randbytes(100))
    elif way.startswith("remove"):
        file.unlink()
    elif way.startswith("older"):
        shutil.copyfile(min(folder.glob(f"ckpt-*{file.suffix}")), file)
    elif way.startswith("leftovers"):
        (folder / "ckpt-99_temp").mkdir()
        (folder / "ckpt-99_temp" / "part-00000-of-00001.index").write_bytes(b"half")
    else:
        file.write_bytes(content)


DAMAGES = (
    *("flip a bit of the data", "flip a bit of the index", "cut the data", "cut the index", "empty data"),
    *("empty index", "zeros in the data", "zeros in the index", "insert into the data", "insert into the index"),
    *("remove the data", "remove the index", "no list", "broken list", "older data", "older index"),
    *("leftovers of a save", "flip another bit of the data", "flip another bit of the index", "cut more off the data"),
)


def fill_disk(run: Run, rng: random.Random, way: str, steps: range) -> str | None:
    """Limits file sizes to less than a checkpoint; returns what is wrong with the last line, if anything."""
    (status,) = run.wait(run.start(int(way.removesuffix(" bytes"))))
    last = (run.folder / "0.log").read_text().splitlines()[-1]
    named = "no checkpoint could be written" in last or "too large" in last
    return None if status == 1 and named else f"exit status {status}: {last[:200]}"


def lose_worker(run: Run, rng: random.Random, way: str, steps: range) -> str | None:
    """`kill -9` for one of two workers; returns what is wrong with the end of the other, if anything."""
    processes = run.start()
    step = rng.choice(steps)
    _wait_until(lambda: run.says(f"step {step}/{STEPS}"), processes[0])
    time.sleep(rng.uniform(0, 0.5))
    victim = ("the chief", "the other").index(way)
    processes[victim].kill()
    start = time.monotonic()
    (status,) = run.wait([processes[1 - victim]])
    seconds = time.monotonic() - start
    run.wait(processes)
    last = (run.folder / f"{1 - victim}.log").read_text().splitlines()[-1]
    well = status == 1 and "another worker was lost" in last and seconds < SECONDS_TO_NOTICE
    return None if well else f"exit status {status} after {seconds:.0f} s: {last[:200]}"


Fault = tuple[str, range]
SPREAD = (range(1, 6), range(6, 12), range(12, 18), range(18, STEPS))
LATER = (range(9, 12), range(13, 16), range(17, 20), range(21, STEPS))
"""Steps with two checkpoints, so that one is left."""
KILLS: tuple[Fault, ...] = (
    ("writing shards", range(0)),
    ("starting", range(0)),
    ("training", range(1, 8)),
    ("saving", range(8, 9)),
    ("evaluating", range(12, 13)),
    ("training", range(13, 20)),
    ("saving", range(20, STEPS + 1, 4)),
)
CAMPAIGN: dict[str, tuple[Callable, int, list[tuple[Fault, ...]]]] = {
    "kill": (kill, 1, [KILLS] * 8),
    "signal": (stop, 1, [tuple(zip(("SIGTERM", "SIGUSR1", "SIGINT", "SIGTERM"), SPREAD, strict=True))] * 6),
    "damage": (damage_newest, 1, [tuple(zip(DAMAGES[n::5], LATER, strict=True)) for n in range(5)]),
    "disk": (fill_disk, 1, [tuple((f"{10**power} bytes", range(0)) for power in (4, 5, 6, 7))]),
    "worker": (lose_worker, 2, [tuple(zip(("the other", "the chief") * 2, SPREAD, strict=True))] * 3),
}
"""The fault function, the number of workers, and for each run the faults that it suffers, one after another."""


def main() -> None:
    """Reference runs, then the requested faults."""
    folder = Path(sys.argv[1]).resolve()
    names = sys.argv[2:] or list(CAMPAIGN)
    shapes.write_shapes(folder / "data", num_train=24, num_val=8)
    expected = {}
    for num_workers in {CAMPAIGN[name][1] for name in names}:
        shutil.rmtree(folder / f"whole{num_workers}", ignore_errors=True)
        whole = Run(folder / f"whole{num_workers}", folder / "data", num_workers)
        if not whole.finish():
            sys.exit(f"{whole.folder}: the uninterrupted run fails")
        expected[num_workers] = whole.weights()
    results = {name: survey(folder, name, expected[CAMPAIGN[name][1]]) for name in names}
    print("\n| fault | times | runs | runs that ended with the weights of an uninterrupted run |")
    print("| --- | --- | --- | --- |")
    for name, outcomes in results.items():
        ways = Counter(way for faults in CAMPAIGN[name][2] for way, _ in faults)
        shown = ", ".join(f"{way} {times}" if times > 1 else way for way, times in ways.items())
        print(f"| {name}: {shown} | {ways.total()} | {len(outcomes)} | {outcomes.count(None)} |")
    print(json.dumps({"bench": "faults", "outcomes": results}))
    sys.exit(any(outcome is not None for outcomes in results.values() for outcome in outcomes))


def survey(folder: Path, name: str, expected: str) -> list[str | None]:
    """The outcomes of the runs with one kind of fault: None, or what went wrong."""
    inflict, num_workers, all_faults = CAMPAIGN[name]
    shutil.rmtree(folder / name, ignore_errors=True)

    def suffer(number: int) -> str | None:
        run = Run(folder / name / f"{number}", folder / "data", num_workers)
        rng = random.Random(number)
        wrong = None
        for way, steps in all_faults[number]:
            wrong = wrong or inflict(run, rng, way, steps)
            print(f"{time.strftime('%X')} {name} {number}, {way}: {wrong or 'done'}", flush=True)
        if wrong is None and not run.finish():
            wrong = "never finished"
        if wrong is None and run.weights() != expected:
            wrong = "other weights"
        print(f"{time.strftime('%X')} {name} {number}: {wrong or 'survived'}", flush=True)
        return wrong

    with ThreadPoolExecutor(2 // num_workers) as pool:
        return list(pool.map(suffer, range(len(all_faults))))


if __name__ == "__main__":
    main()
