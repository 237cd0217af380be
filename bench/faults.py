"""A campaign of faults: kills, signals, damaged checkpoints, a full disk, lost workers; each followed by a restart.

python bench/faults.py FOLDER [kill|signal|damage|disk|worker ...]

Every run trains the demo's network on synthetic shapes with --deterministic, is broken, and is started again by the
same command until it ends. It counts as survived if its final weights and optimizer are bit for bit those of an
uninterrupted run. Two runs go on at a time. Prints a table and a JSON line; exit status 1 unless all survived.
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
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from deeplab.data import shapes

ROOT = Path(__file__).resolve().parents[1]
STEPS = 24
FLAGS = (
    *("--backbone=mobilenet_v2", "--backbone_weights=none", "--num_gpus=0", "--crop_size=65", "--global_batch_size=4"),
    *(f"--train_steps={STEPS}", "--learning_rate=0.02", "--batch_norm_momentum=0.8", "--log_every_steps=1"),
    *("--checkpoint_steps=4", "--eval_every_epochs=2", "--num_shards=8", "--deterministic"),
)
RESTARTS = 3
MINUTES = 10
"""No start takes longer, or it hangs."""


class Run:
    """A run in a folder of its own, by one process or two workers; what they say is kept in WORKER.log."""

    def __init__(self, folder: Path, data: Path, num_workers: int = 1) -> None:
        self.folder, self._num_workers = folder, num_workers
        folder.mkdir(parents=True)
        self._command = [
            *(sys.executable, "train.py", f"--voc_dir={data}", f"--tfrecord_dir={folder}/shards"),
            *(f"--model_dir={folder}/run", *FLAGS),
        ]

    def start(self, max_file_bytes: int | None = None) -> list[subprocess.Popen]:
        """The processes; with a limit on the size of files, as a full disk has."""
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
        """Their exit statuses; -SIGALRM for one that had to be killed, since it hung."""
        statuses = []
        for process in processes:
            try:
                statuses.append(process.wait(timeout=60 * MINUTES))
            except subprocess.TimeoutExpired:
                process.kill()
                statuses.append(-signal.SIGALRM)
        return statuses

    def finish(self) -> bool:
        """Starts the run again until it is done; whether it came to that."""
        return any(set(self.wait(self.start())) == {0} for _ in range(RESTARTS))

    def says(self, text: str, worker: int = 0) -> bool:
        """Whether the text stands in what a worker said."""
        path = self.folder / f"{worker}.log"
        return path.exists() and text in path.read_text()

    def weights(self) -> str:
        """SHA-256 of all variables of the last checkpoint, which is that of the last step."""
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


def kill(run: Run, rng: random.Random, moment: str) -> None:
    """`kill -9` in the middle of what the moment says."""
    (process,) = run.start()
    checkpoints = run.folder / "run" / "checkpoints"
    if moment == "writing shards":
        _wait_until(lambda: any((run.folder / "shards").glob(".train*.part")), process)
        time.sleep(rng.uniform(0, 0.05))
    elif moment == "saving":
        step = rng.choice(range(4, STEPS + 1, 4))
        _wait_until(lambda: any(checkpoints.glob(f"*/ckpt-{step}*")), process)
        time.sleep(rng.uniform(0, 0.02))
    elif moment == "evaluating":
        step = rng.choice([12, 24])
        _wait_until(lambda: run.says(f"step {step}/{STEPS}"), process)
        time.sleep(rng.uniform(0, 1.0))
    elif moment == "training":
        step = rng.randrange(1, STEPS)
        _wait_until(lambda: run.says(f"step {step}/{STEPS}"), process)
        time.sleep(rng.uniform(0, 0.5))
    else:
        time.sleep(rng.uniform(0, 15))
    process.kill()
    process.wait()


def stop(run: Run, rng: random.Random, number: signal.Signals) -> str | None:
    """A signal at a random step; what is wrong with the exit status, if anything."""
    (process,) = run.start()
    step = rng.randrange(1, STEPS - 1)
    _wait_until(lambda: run.says(f"step {step}/{STEPS}"), process)
    time.sleep(rng.uniform(0, 0.3))
    process.send_signal(number)
    (status,) = run.wait([process])
    return None if status == 75 else f"exit status {status}"


def damage_newest(run: Run, rng: random.Random, way: str) -> None:
    """Damages a checkpoint of a run that was stopped in its second half."""
    (process,) = run.start()
    _wait_until(lambda: run.says(f"step 14/{STEPS}"), process)
    process.kill()
    process.wait()
    folder = run.folder / "run" / "checkpoints" / "latest"
    newest = max(folder.glob("ckpt-*.index"), key=lambda path: int(path.stem.partition("-")[2]))
    index, data = newest, newest.with_suffix(".data-00000-of-00001")
    file = index if way.endswith("index") else data
    content = bytearray(file.read_bytes()) if file.exists() else bytearray()
    if way.startswith("flip"):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif way.startswith("cut"):
        del content[rng.randrange(len(content)) :]
    elif way.startswith("empty"):
        content.clear()
    elif way.startswith("zero"):
        start = rng.randrange(len(content) // 2)
        content[start : start + 512] = bytes(min(512, len(content) - start))
    elif way.startswith("insert"):
        place = rng.randrange(len(content))
        content[place:place] = b"\x55" * 16
    if way.startswith("no list"):
        (folder / "checkpoint").unlink()
    elif way.startswith("broken list"):
        (folder / "checkpoint").write_bytes(os.urandom(100))
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


def fill_disk(run: Run, rng: random.Random, max_file_bytes: int) -> str | None:
    """A limit on the size of files, below that of a checkpoint."""
    (status,) = run.wait(run.start(max_file_bytes))
    last = (run.folder / "0.log").read_text().splitlines()[-1]
    named = "no checkpoint could be written" in last or "disk is full" in last or "too large" in last
    return None if status == 1 and named else f"exit status {status}: {last[:200]}"


def lose_worker(run: Run, rng: random.Random, victim: int) -> str | None:
    """`kill -9` for one of two workers; what is wrong with how the other ended, if anything."""
    processes = run.start()
    step = rng.randrange(1, STEPS - 1)
    _wait_until(lambda: run.says(f"step {step}/{STEPS}"), processes[0])
    time.sleep(rng.uniform(0, 0.5))
    processes[victim].kill()
    start = time.monotonic()
    survivor = 1 - victim
    (status,) = run.wait([processes[survivor]])
    run.wait(processes)
    seconds = time.monotonic() - start
    last = (run.folder / f"{survivor}.log").read_text().splitlines()[-1]
    well = status == 1 and "another worker is lost" in last
    return None if well and seconds < 60 else f"exit status {status} after {seconds:.0f} s: {last[:200]}"


MOMENTS = ("starting", "writing shards", "training", "training", "saving", "saving", "evaluating")
CAMPAIGN: dict[str, tuple[Callable, int, tuple, int]] = {
    "kill": (kill, 56, MOMENTS, 1),
    "signal": (stop, 21, (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT), 1),
    "damage": (damage_newest, len(DAMAGES), DAMAGES, 1),
    "disk": (fill_disk, 4, (20_000, 200_000, 2_000_000, 10_000_000), 1),
    "worker": (lose_worker, 10, (0, 1), 2),
}
"""What is done, how many times, in which ways by turns, and to how many workers."""


def main() -> None:
    """Reference runs, then the faults that were asked for."""
    folder = Path(sys.argv[1]).resolve()
    names = sys.argv[2:] or list(CAMPAIGN)
    shapes.write_shapes(folder / "data", num_train=24, num_val=8)
    expected = {}
    for num_workers in {CAMPAIGN[name][3] for name in names}:
        shutil.rmtree(folder / f"whole{num_workers}", ignore_errors=True)
        whole = Run(folder / f"whole{num_workers}", folder / "data", num_workers)
        if not whole.finish():
            sys.exit(f"{whole.folder}: the uninterrupted run fails")
        expected[num_workers] = whole.weights()
    results = {name: _survey(folder, name, expected[CAMPAIGN[name][3]]) for name in names}
    print("\n| fault | way | times | survived |\n| --- | --- | --- | --- |")
    for name, ways in results.items():
        for way, outcomes in ways.items():
            print(f"| {name} | {way} | {len(outcomes)} | {sum(outcome is None for outcome in outcomes)} |")
    flat = {name: [outcome for ways in ways.values() for outcome in ways] for name, ways in results.items()}
    survived = {name: [sum(outcome is None for outcome in each), len(each)] for name, each in flat.items()}
    print(json.dumps({"bench": "faults", "survived_of": survived}))
    sys.exit(any(outcome is not None for each in flat.values() for outcome in each))


def _survey(folder: Path, name: str, expected: str) -> dict[str, list[str | None]]:
    """The outcomes of a kind of fault by way: None, or what went wrong."""
    inflict, times, ways, num_workers = CAMPAIGN[name]
    shutil.rmtree(folder / name, ignore_errors=True)
    outcomes: dict[str, list[str | None]] = {}
    lock = threading.Lock()

    def trial(number: int) -> None:
        way = ways[number % len(ways)]
        run = Run(folder / name / f"{number}", folder / "data", num_workers)
        wrong = inflict(run, random.Random(number), way)
        if wrong is None and not run.finish():
            wrong = "never finished"
        if wrong is None and run.weights() != expected:
            wrong = "other weights"
        label = getattr(way, "name", str(way))
        with lock:
            outcomes.setdefault(label, []).append(wrong)
            print(f"{name} {number + 1}/{times}, {label}: {wrong or 'survived'}", flush=True)
        if wrong is None:
            shutil.rmtree(run.folder)

    with ThreadPoolExecutor(1 if num_workers > 1 else 2) as pool:
        list(pool.map(trial, range(times)))
    return outcomes


if __name__ == "__main__":
    main()
