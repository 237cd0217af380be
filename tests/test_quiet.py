"""Nothing that a program writes to stderr is lost, however it ends, and TensorFlow's notes are hidden."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deeplab.program import stderr_filter

ROOT = Path(__file__).resolve().parents[1]
NOTE = "I0000 00:00:1700000000.123456   12345 cpu_feature_guard.cc:227] This binary is optimized"
SAY = f"""
import ctypes, os, signal, sys, time
C = ctypes.CDLL(None)

def say(text):  # as a C library writes
    C.write(2, text.encode(), len(text))

say("{NOTE}\\n")
"""
ERRORS = """
class errors:
    OpError = type("OpError", (Exception,), {})
    UnavailableError = AbortedError = CancelledError = DeadlineExceededError = InternalError = OpError
"""


@pytest.fixture
def start(tmp_path):
    """Starts a program with a stand-in for TensorFlow: `tensorflow` is the code that runs while it is imported."""

    def run(program, tensorflow=ERRORS, env=None, **options):
        (tmp_path / "tensorflow.py").write_text(SAY + tensorflow)
        (tmp_path / "program.py").write_text(program)
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"} | (env or {})
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen([sys.executable, tmp_path / "program.py"], env=environment, **options)

    return run


def _end(process):
    """(exit status, stderr). The end of stderr shows that the filter has ended."""
    stderr = process.stderr.read()  # not communicate(), which misses the lines that readline has buffered
    return process.wait(timeout=60), stderr


IMPORT = "from deeplab.program.start import Program\nimport tensorflow\n"


@pytest.mark.parametrize("line", ["F0000 Check failed: last words\n", "no newline"])
def test_an_abort_while_tensorflow_is_imported_shows_its_reason(start, line):
    process = start(IMPORT, f"say({line!r})\nC.abort()\n")
    assert _end(process) == (-signal.SIGABRT, line)


def test_a_later_abort_shows_its_reason(start):
    program = IMPORT + "from tensorflow import *\nsay('I0000 a note\\nlast words')\nos.abort()\n"
    assert _end(start(program)) == (-signal.SIGABRT, "last words")


def test_sigkill_loses_nothing(start):
    program = IMPORT + (
        "from tensorflow import *\n"
        "for number in range(5000): say(f'line {number}\\n')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert _end(start(program)) == (-signal.SIGKILL, "".join(f"line {number}\n" for number in range(5000)))


@pytest.mark.slow
def test_an_abort_while_an_iterator_is_created_shows_its_reason(tmp_path):
    """With TensorFlow itself, which logs notes while it is imported and while the iterator is created."""
    (tmp_path / "program.py").write_text("""
from deeplab.program.start import Program
import ctypes
import tensorflow as tf

def crash(number):
    C = ctypes.CDLL(None)
    C.perror(b"last words")
    C.abort()

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
make = lambda context: tf.data.Dataset.range(8).map(lambda n: tf.py_function(crash, [n], tf.int64)).batch(2)
next(iter(strategy.distribute_datasets_from_function(make)))
""")
    command, environment = [sys.executable, tmp_path / "program.py"], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert "last words: " in done.stderr
    assert not [line for line in done.stderr.splitlines() if stderr_filter.is_note(line.encode())]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_tensorflow_is_imported_ends_with_one_line(start, number):
    process = start(IMPORT, "say('importing\\n')\ntime.sleep(60)\n")
    assert process.stderr.readline() == "importing\n"
    process.send_signal(number)
    reason = f"program.py: {number.name}: stopped while starting; run the same command again\n"
    assert _end(process) == (75, reason)


BUSY = """
import concurrent.futures, hashlib, multiprocessing, os, threading, time
from deeplab.errors import Interrupted
from deeplab.program import signals
from tensorflow import say

signals.PATIENCE = 0.2

def main(options, arguments):
    {}

if __name__ == "__main__":
    Program((), "").run(main)
"""


OUTSIDE = """
    threading.Timer(0.3, say, ["busy\\n"]).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_whose_main_thread_does_not_return_to_python(start, number):
    process = start(IMPORT + BUSY.format(OUTSIDE.strip()))
    assert process.stderr.readline() == "busy\n"
    process.send_signal(number)
    assert _end(process) == (75, f"program.py: {number.name}: stopped; run the same command again\n")


IN_A_POOL = """
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


def test_a_signal_ends_the_processes_of_a_pool(start):
    process = start(IMPORT + BUSY.format(IN_A_POOL.strip()))
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert _end(process) == (75, "program.py: SIGTERM: stopped; run the same command again\n")
    assert not Path(f"/proc/{child}/exe").exists()  # at the latest when the end of stderr, which it shares, is seen


TRAIN = """
    stop = signals.StopRequest(bool, are_several=False)
    stop.listen()
    stop.note_something_to_save()
    say("busy\\n")
    while not stop.is_agreed:
        stop.agree()
    time.sleep(10 * signals.PATIENCE)  # the step that runs
    raise Interrupted(f"{stop.reason}: saved")
"""


def test_a_signal_lets_a_step_end_once_there_is_something_to_save(start):
    process = start(IMPORT + BUSY.format(TRAIN.strip()))
    assert process.stderr.readline() == "busy\n"
    process.send_signal(signal.SIGTERM)
    status, stderr = _end(process)
    assert status == 75
    assert stderr.splitlines()[1:] == ["program.py: SIGTERM: saved"]


def test_only_the_main_thread_takes_signals(start):
    """Others would take a SIGTERM that it blocks while TensorFlow, with a handler of its own, connects workers."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs Linux")
    masks = """
    import re
    from deeplab.progress import Progress
    progress = Progress("waiting", 0, "")
    time.sleep(0.5)
    tasks = [open(f"/proc/self/task/{task}/status").read() for task in os.listdir("/proc/self/task")]
    masks = [int(re.search(r"SigBlk:\\s*(\\w+)", task).group(1), 16) for task in tasks]
    print(len(tasks), [bool(mask & 1 << signal.SIGTERM - 1) for mask in masks].count(False), flush=True)
"""
    process = start(IMPORT + BUSY.format(masks.strip()).replace("import conc", "import signal, conc"))
    number, open_to_signals = map(int, process.stdout.readline().split())
    assert number >= 3  # with the threads of `watch` and of `Progress`
    assert open_to_signals == 1
    assert _end(process) == (0, "")


def test_a_signal_to_the_whole_group_leaves_the_filter(start):
    """As sent by Ctrl-C, a closed terminal or a scheduler; the program itself may take its time."""
    program = IMPORT + (
        "from tensorflow import *\n"
        "seen = []\n"
        "for number in (1, 2, 3, 10, 15): signal.signal(number, lambda *_: seen.append(say('signal\\n')))\n"
        "say('ready\\n')\n"
        "while len(seen) < 5: time.sleep(0.01)\n"
        "say('last words\\n')\n"
    )
    process = start(program, start_new_session=True)
    assert process.stderr.readline() == "ready\n"
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTERM):
        os.killpg(process.pid, number)
        assert process.stderr.readline() == "signal\n"
    assert _end(process) == (0, "last words\n")


def test_the_reason_is_the_last_line_and_nothing_is_cut_off(start):
    program = IMPORT + (
        "from tensorflow import say\n"
        "from deeplab.errors import DataError\n"
        "def main(options, arguments):\n"
        "    for number in range(2000): say(f'line {number}\\n')\n"
        "    raise DataError('no such file')\n"
        "if __name__ == '__main__': Program((), '').run(main)\n"
    )
    status, stderr = _end(start(program))
    assert status == 1
    assert stderr.splitlines() == [*(f"line {number}" for number in range(2000)), "program.py: no such file"]


def test_help_is_printed_and_ends_with_0(start):
    call = "import sys; sys.argv.append('--help'); Program((), 'What it does.').run(print)\n"
    process = start(f"{IMPORT}if __name__ == '__main__': {call}")
    assert process.stdout.readline() == "What it does.\n"
    assert _end(process) == (0, "")


def test_worker_processes_write_through_the_same_filter(start):
    program = IMPORT + (
        "import multiprocessing\n"
        "from tensorflow import say, NAMES\n"
        "if __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('spawn').Process(target=say, args=('worker\\n',))\n"
        "    worker.start()\n"
        "    worker.join()\n"
        "    print(multiprocessing.active_children())\n"
    )
    assert _end(start(program, ERRORS + "NAMES = sys.stderr.name\n")) == (0, "worker\n")


def test_a_terminal_is_still_one(start):
    ours, theirs = pty.openpty()
    process = start(IMPORT + "import sys\nprint(sys.stderr.isatty())\nsys.stderr.write('50 %\\r')\n", stderr=theirs)
    os.close(theirs)
    assert process.communicate(timeout=60)[0] == "True\n"
    assert os.read(ours, 100) == b"50 %\r"
    os.close(ours)


@pytest.mark.parametrize(("level", "expected"), [("0", f"{NOTE}\n"), ("1", ""), ("2", "")])
def test_log_level_0_shows_all(start, level, expected):
    assert _end(start(IMPORT, env={"TF_CPP_MIN_LOG_LEVEL": level})) == (0, expected)


def test_without_stderr_a_program_still_runs(start):
    program = IMPORT + "print('done')\n"
    process = start(program, preexec_fn=lambda: os.close(2), stderr=None)
    assert process.communicate(timeout=60)[0] == "done\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("W0000 00:00:1 op.cc] Input of GeneratorDatasetOp::Dataset will not be optimized because", True),
        ("E0000 00:00:1 op.cc] oneDNN supports DT_UINT8 only on platforms with AVX-512. Falling back", True),
        ("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR", True),
        ("2026-01-01 00:00:00.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] This", True),
        ("W0000 00:00:1 tf_tfl_flatbuffer_helpers.cc:364] Ignored output_format.", True),
        ("fully_quantize: 0, inference_type: 6, input_inference_type: FLOAT32", True),
        ("2026-01-01 00:00:00.123456: W tensorflow/core/framework/op_kernel.cc:1] failed", False),
        ("E0000 00:00:1 allocator.cc] out of memory", False),
        ("/lib/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 5 leaked semaphore", True),
        ("  warnings.warn('resource_tracker: There appear to be %d '", True),
        ("Traceback (most recent call last):", False),
        ("", False),
    ],
)
def test_what_is_a_note(line, expected):
    assert stderr_filter.is_note(line.encode()) == expected


@pytest.mark.parametrize("has_device", [True, False])
def test_a_failed_driver_is_worth_a_line_where_there_is_a_device(monkeypatch, has_device):
    monkeypatch.setattr(stderr_filter, "_has_nvidia_device", lambda: has_device)
    line = b"E0000 00:00:1 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error"
    assert stderr_filter.is_note(line) != has_device


def test_the_first_process_of_a_container_loses_nothing(start, tmp_path):
    """Its end ends all other processes immediately, so it has no filter."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs Linux with user namespaces")
    start(IMPORT, "say('last words\\n')\nos._exit(3)\n").wait()  # writes the files
    command, environment = [*unshare, sys.executable, tmp_path / "program.py"], {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, f"{NOTE}\nlast words\n")
