"""Which kernels are chosen, on stand-ins for processors; the figures are in docs/measurements.md."""

import logging
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from deeplab import cpu_kernels
from deeplab.distribute import devices, numerics
from deeplab.errors import UsageError

RYZEN_3 = "fpu sse4_1 avx avx2 fma"
CORE_12 = RYZEN_3 + " avx_vnni"
SKYLAKE_X = RYZEN_3 + " avx512f avx512dq avx512bw avx512vl"
EPYC_4 = SKYLAKE_X + " avx512_vnni avx512_bf16"


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """A function that makes this a processor with these flags of Linux."""
    for name in (cpu_kernels.SWITCH, "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def make(flags, machine="x86_64"):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")
        monkeypatch.setattr(cpu_kernels, "_CPU_INFO", tmp_path / "cpuinfo")
        cpu_kernels._flags_in.cache_clear()
        monkeypatch.setattr(cpu_kernels, "_NVIDIA_DRIVER", tmp_path / "nvidiactl")
        monkeypatch.setattr("platform.machine", lambda: machine)

    return make


@pytest.mark.parametrize(
    ("flags", "limit", "avx512", "is_usual"),
    [
        (RYZEN_3, None, False, False),
        (CORE_12, None, False, True),
        (SKYLAKE_X, None, True, False),
        (EPYC_4, None, True, True),
        (EPYC_4, "avx2", False, True),
        (EPYC_4, "AVX512_CORE", True, True),
        ("", None, False, False),
    ],
)
def test_onednn_is_used_on_every_x86(pretend, monkeypatch, flags, limit, avx512, is_usual):
    """As TensorFlow does by itself only with some instructions: port.cc of 2.21, IsMKLEnabled."""
    pretend(flags)
    monkeypatch.delitem(sys.modules, "tensorflow")
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    cpu_kernels.choose_kernels()
    assert os.environ[cpu_kernels.SWITCH] == "1"
    assert cpu_kernels.has_avx512() == avx512
    words, usual = cpu_kernels.kernels()
    assert usual == is_usual
    assert "oneDNN's kernels" in words


def test_the_users_choice_is_kept_and_said(pretend, monkeypatch, caplog):
    pretend(EPYC_4)
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setenv(cpu_kernels.SWITCH, "0")
    cpu_kernels.choose_kernels()
    assert os.environ[cpu_kernels.SWITCH] == "0"
    caplog.set_level(logging.DEBUG, "deeplab")
    devices.log_kernels()
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "as TF_ENABLE_ONEDNN_OPTS=0 says" in record.message


def test_the_usual_choice_is_said_at_debug_level(pretend, monkeypatch, caplog):
    pretend(EPYC_4)
    monkeypatch.setenv(cpu_kernels.SWITCH, "1")
    caplog.set_level(logging.DEBUG, "deeplab")
    devices.log_kernels()
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_nothing_is_set_too_late_or_for_other_processors(pretend, monkeypatch):
    pretend(RYZEN_3)
    cpu_kernels.choose_kernels()  # TensorFlow is imported
    assert cpu_kernels.SWITCH not in os.environ
    assert "as it was imported before deeplab; TF_ENABLE_ONEDNN_OPTS=1 is faster" in cpu_kernels.kernels()[0]
    pretend("fp asimd", machine="aarch64")
    monkeypatch.delitem(sys.modules, "tensorflow")
    cpu_kernels.choose_kernels()
    assert cpu_kernels.SWITCH not in os.environ
    assert cpu_kernels.kernels() == ("TensorFlow's own choice of kernels for aarch64", True)


def test_a_gpus_graphs_are_not_changed(pretend, monkeypatch, tmp_path):
    """With oneDNN's operations on, TensorFlow fuses less on GPUs: tests/test_gpu_graphs.py."""
    pretend(RYZEN_3)
    monkeypatch.delitem(sys.modules, "tensorflow")
    (tmp_path / "nvidiactl").touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cpu_kernels.choose_kernels()
    assert cpu_kernels.SWITCH not in os.environ
    assert cpu_kernels.kernels()[0].endswith("TF_ENABLE_ONEDNN_OPTS=1 is faster without a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cpu_kernels.choose_kernels()
    assert os.environ[cpu_kernels.SWITCH] == "1"


def test_importing_the_package_is_enough():
    code = "import deeplab, os; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    environment = {name: value for name, value in os.environ.items() if name != cpu_kernels.SWITCH}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    expected = "1" if cpu_kernels._is_x86() else "None"
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(("half", "warns"), [(0.040, True), (0.0005, False)])
def test_a_slow_half_precision_is_said_with_its_ratio(monkeypatch, caplog, half, warns):
    seconds = {tf.bfloat16: half, tf.float32: 0.001}
    monkeypatch.setattr(numerics, "_seconds_of_product", seconds.get)
    monkeypatch.setattr(tf.nn, "conv2d", lambda *arguments: None)
    numerics._warn_if_slow("bfloat16")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * warns
    if warns:
        assert "40.0 times as long as in float32; --precision=float32 is faster" in caplog.text


def test_a_half_precision_without_kernels_is_refused(monkeypatch):
    def none(*arguments):
        raise tf.errors.AbortedError(None, None, "no primitive")

    monkeypatch.setattr(tf.nn, "conv2d", none)
    with pytest.raises(UsageError, match="--precision=float16: TensorFlow has no kernels for it"):
        numerics._warn_if_slow("float16")
