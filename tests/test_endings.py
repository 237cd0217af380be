"""How a program ends: one line for what a user can fix, a traceback for a fault of this project's own code."""

import json
import threading

import pytest
import tensorflow as tf
from forked import run

from deeplab.errors import DataError
from deeplab.program import signals, start

FAILING = {
    "merge_call": """
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    @tf.function
    def inner():
        tf.distribute.get_replica_context().merge_call(lambda strategy: None)
    strategy.run(lambda: inner())
""",
    "library": """
    tf.config.list_logical_devices()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [])
""",
    "own": """
    raise RuntimeError("our own fault")
""",
    "own, traced": """
    @tf.function
    def outer():
        fail()
    def fail():
        raise RuntimeError("our own fault")
    outer()
""",
    "own, in a layer": """
    import keras
    class Layer(keras.layers.Layer):
        def call(self, inputs):
            raise RuntimeError("our own fault")
    tf.function(lambda inputs: Layer()(inputs))(tf.ones([1]))
""",
}


def _end(tmp_path, code, **environment):
    (tmp_path / "program.py").write_text(
        "from deeplab.program.start import Program\nimport tensorflow as tf\n\n"
        f"def main(options, arguments):{code}\nProgram((), '').run(main)\n"
    )
    return run(tmp_path / "program.py", environment=environment, expect=1)


@pytest.mark.parametrize(
    ("name", "words"), [("merge_call", "`merge_call` called while defining a new graph"), ("library", "be modified")]
)
def test_an_error_of_tensorflows_python_ends_in_one_line(tmp_path, name, words):
    (tmp_path / "tmp").mkdir()
    done = _end(tmp_path, f"\n    import tempfile\n    tempfile.tempdir = {str(tmp_path / 'tmp')!r}{FAILING[name]}")
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]  # of AutoGraph
    line = done.stderr.splitlines()[-1]
    assert line.startswith("program.py: RuntimeError in TensorFlow: ")
    assert words in line
    assert line.endswith(" (TF_CPP_MIN_LOG_LEVEL=0 shows where)")


def test_its_traceback_is_shown_on_request(tmp_path):
    done = _end(tmp_path, FAILING["library"], TF_CPP_MIN_LOG_LEVEL="0")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("name", ["own", "own, traced", "own, in a layer"])
def test_an_error_of_our_own_code_shows_its_traceback(tmp_path, name):
    done = _end(tmp_path, FAILING[name])
    assert "Traceback" in done.stderr
    assert "our own fault" in done.stderr


@pytest.mark.parametrize(
    ("error", "message", "words"),
    [
        ("UnavailableError", "Collective ops is aborted by: Connection reset by peer", "another worker was lost"),
        ("InternalError", "Failed to connect to remote worker", "another worker was lost"),
        ("InternalError", "NCCL: unhandled system error", "the sum over GPUs failed, here or because another worker"),
        ("InternalError", "cuDNN launch failure : input shape ([4,65,65,64])", "a GPU of this worker failed"),
        ("InternalError", "Failed to launch CUDA kernel: CUDA_ERROR_ILLEGAL_ADDRESS", "a GPU of this worker failed"),
        ("InternalError", "Blas xGEMM launch failed: CUBLAS_STATUS_EXECUTION_FAILED", "a GPU of this worker failed"),
    ],
)
def test_a_worker_that_fails_with_others_says_why(monkeypatch, error, message, words):
    monkeypatch.setenv("TF_CONFIG", json.dumps({}))
    line = start._explain(error, message)
    assert line.startswith(words)
    assert f"({error}: {message})" in line
    assert line.endswith("; restart all workers: they resume from the newest checkpoint")


def test_workers_with_unlike_numbers_of_gpus_are_told_so(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({}))
    message = "Device /job:worker/task:1/GPU:3 is joining a group with size 8, but that group has size 6 (group_key=1)"
    line = start._explain("InternalError", message)
    assert line.startswith("workers have different numbers of GPUs or replicas (8 and 6 in all")
    assert "--num_gpus" in line


def test_a_worker_alone_says_only_why(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    line = start._explain("InternalError", "cuDNN launch failure")
    assert line == "InternalError: cuDNN launch failure"


LOST = tf.errors.UnavailableError(None, None, "Connection reset by peer")
FULL = tf.errors.ResourceExhaustedError(None, None, "OOM")


@pytest.mark.parametrize(
    ("seen", "trains", "error", "status"),
    [
        ([], False, LOST, 1),
        ([15], False, LOST, 75),  # all get a signal while they trace the step: the first to leave is lost to the others
        ([15], False, DataError("no weights there"), 75),  # Keras's words for the handler's exception
        ([15], False, ValueError("swallowed"), 75),
        ([15], True, LOST, 75),
        ([15], True, DataError("damaged"), 1),
        ([15], True, FULL, 1),
    ],
)
def test_an_error_that_follows_from_a_signal_ends_with_the_status_of_signals(monkeypatch, seen, trains, error, status):
    monkeypatch.setenv("TF_CONFIG", "{}")
    monkeypatch.setattr(signals, "signals_seen", seen)
    monkeypatch.setattr(signals, "something_to_save", threading.Event())
    if trains:
        signals.something_to_save.set()
    ending = start._ending(error)
    assert ending.exit_status == status
    assert (str(ending) == "SIGTERM: stopped; run the same command again") == (status == 75)


@pytest.mark.parametrize(
    ("words", "line"), [((), "out of memory"), (("Unable to allocate 3 GiB",), "Unable to allocate 3 GiB")]
)
def test_memory_that_does_not_suffice_ends_in_one_line(words, line):
    assert str(start._ending(MemoryError(*words))) == line


def test_control_characters_of_names_are_escaped_in_log_lines_and_in_the_reason(tmp_path):
    code = (
        "\n    import logging"
        "\n    from deeplab.errors import DataError"
        "\n    logging.getLogger('deeplab').info('%s', 'a\\x1b[2Jb\\nfake line é 道路')"
        "\n    raise DataError('c\\rd')"
    )
    done = _end(tmp_path, code)
    lines = done.stderr.splitlines()
    assert lines[-2].endswith(r" a\x1b[2Jb\nfake line é 道路")
    assert lines[-1] == r"program.py: c\rd"


def test_what_main_returns_is_not_dropped_before_the_process_ends(tmp_path):
    """TensorFlow takes up to a minute to drop an iterator over a distributed data set."""
    (tmp_path / "program.py").write_text(
        "from deeplab.program.start import Program\n"
        "class Slow:\n"
        "    def __del__(self): print('dropped', flush=True)\n"
        "def main(options, arguments): return Slow()\n"
        "Program((), '').run(main)\n"
    )
    assert "dropped" not in run(tmp_path / "program.py").stdout


def test_garbage_is_looked_for_again_once_the_program_runs(tmp_path):
    """Not while modules are imported, which takes TensorFlow's a third longer."""
    (tmp_path / "program.py").write_text(
        "import gc\nfrom deeplab.program.start import Program\n\nprogram = Program((), '')\n"
        "before = gc.isenabled()\nprogram.run(lambda options, arguments: print(before, gc.isenabled()))\n"
    )
    assert run(tmp_path / "program.py").stdout == "False True\n"
