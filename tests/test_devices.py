"""The choice of devices, with GPUs played by stand-ins: no GPU is needed."""

import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from deeplab import api
from deeplab.commands.export import program as export
from deeplab.distribute import devices, gpus
from deeplab.distribute.cluster import Cluster
from deeplab.distribute.devices import check_strategy, make_strategy
from deeplab.distribute.settings import DeviceSettings
from deeplab.distribute.workers import Workers
from deeplab.errors import UsageError
from deeplab.evaluator import Evaluator
from deeplab.progress import Progress
from deeplab.run.settings import LoadSettings


@pytest.fixture
def play(monkeypatch):
    """Plays a machine with this many GPUs of this compute capability; strategies are (their name, arguments)."""

    def machine(
        num_gpus,
        capability=(9, 0),
        built_for=("sm_60", "sm_70", "sm_80", "sm_89", "compute_90"),
        small=0,
        name="NVIDIA Test",
    ):
        present = [SimpleNamespace(name=f"/physical_device:GPU:{index}") for index in range(num_gpus)]
        settings = SimpleNamespace(growth=[], visible=None)
        config = tf.config
        monkeypatch.setattr(config, "list_physical_devices", lambda kind=None: present if kind == "GPU" else ["CPU:0"])
        monkeypatch.setattr(config, "set_visible_devices", lambda shown, kind: setattr(settings, "visible", shown))
        monkeypatch.setattr(config.experimental, "set_memory_growth", lambda gpu, on: settings.growth.append((gpu, on)))
        logical = lambda kind=None: (settings.visible or [])[small:] if kind == "GPU" else ["CPU:0"]  # noqa: E731
        monkeypatch.setattr(config, "list_logical_devices", logical)
        details = {"device_name": name, "compute_capability": capability}
        monkeypatch.setattr(config.experimental, "get_device_details", lambda gpu: details)
        build = {"is_cuda_build": True, "cuda_compute_capabilities": list(built_for)}
        monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)
        for name in ("OneDeviceStrategy", "MirroredStrategy", "MultiWorkerMirroredStrategy"):
            monkeypatch.setattr(tf.distribute, name, type(name, (), {"__init__": _keep_arguments}))
        return settings

    monkeypatch.setattr(devices, "wait_for_all", lambda cluster, minutes: None)
    monkeypatch.setenv("TF_GPU_THREAD_MODE", "")  # so that it is reset afterwards
    monkeypatch.delenv("TF_GPU_THREAD_MODE")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    level = devices.logger.level  # workers other than the chief are silent
    is_shown = Progress.is_shown
    yield machine
    devices.logger.setLevel(level)
    Progress.is_shown = is_shown


def _keep_arguments(self, *arguments, **named):
    self.arguments, self.named = arguments, named
    first = arguments[0] if arguments else "GPU:0"
    self.extended = SimpleNamespace(worker_devices=first if isinstance(first, list) else [first])
    self.num_replicas_in_sync = len(self.extended.worker_devices)


def _chosen(strategy):
    return type(strategy).__name__, *strategy.arguments


def test_gpus_launch_kernels_from_threads_of_their_own(play, monkeypatch):
    play(0)
    make_strategy(DeviceSettings())
    assert "TF_GPU_THREAD_MODE" not in os.environ
    play(2)
    make_strategy(DeviceSettings())
    assert os.environ["TF_GPU_THREAD_MODE"] == "gpu_private"
    monkeypatch.setenv("TF_GPU_THREAD_MODE", "global")
    make_strategy(DeviceSettings())
    assert os.environ["TF_GPU_THREAD_MODE"] == "global"


def test_one_device_takes_the_first_gpu_or_the_cpu(play):
    play(2)
    assert _chosen(make_strategy(DeviceSettings(), "one_device")) == ("OneDeviceStrategy", "GPU:0")
    play(0)
    assert _chosen(make_strategy(DeviceSettings(), "one_device")) == ("OneDeviceStrategy", "CPU:0")
    with pytest.raises(UsageError, match="--num_gpus=1: TensorFlow sees 0 GPUs"):
        make_strategy(DeviceSettings(1), "one_device")


def test_xla_gets_the_strategy_that_it_can_compile_for(play):
    play(1)
    assert _chosen(make_strategy(DeviceSettings(), "auto")) == ("MirroredStrategy", ["GPU:0"])
    strategy = make_strategy(DeviceSettings(), "auto", jit_compile=True)
    assert _chosen(strategy) == ("OneDeviceStrategy", "GPU:0")
    check_strategy(strategy, 16, 1, jit_compile=True)


@pytest.mark.parametrize(("num_gpus", "name"), [(1, "mirrored"), (2, "auto")])
def test_xla_is_rejected_for_mirrored_replicas(play, num_gpus, name):
    play(num_gpus)
    strategy = make_strategy(DeviceSettings(), name, jit_compile=True)
    assert _chosen(strategy)[0] == "MirroredStrategy"
    with pytest.raises(UsageError, match=r"^--jit_compile: only on one GPU; .*--num_gpus=1"):
        check_strategy(strategy, 16, 1, jit_compile=True)
    check_strategy(strategy, 16, 1, jit_compile=False)


def test_xla_is_rejected_on_the_cpu(play):
    play(0)
    with pytest.raises(UsageError, match="only on GPUs"):
        check_strategy(make_strategy(DeviceSettings(), "auto", jit_compile=True), 16, 1, jit_compile=True)


@pytest.mark.parametrize(("num_gpus", "implementation"), [(2, "NCCL"), (0, "RING")])
def test_workers_sum_by_nccl_on_gpus_and_by_ring_on_cpus(play, monkeypatch, num_gpus, implementation):
    play(num_gpus)
    monkeypatch.setattr(devices, "find_cluster", lambda: Cluster(("a:1", "b:1"), 0))
    monkeypatch.setenv("TF_CONFIG", "")  # so that it is reset afterwards
    strategy = make_strategy(DeviceSettings(), "auto")
    options = strategy.named["communication_options"]
    assert options.implementation.value == implementation


def test_workers_are_waited_for_before_tensorflow_connects_them(play, monkeypatch):
    play(0)
    cluster = Cluster(("a:1", "b:1"), 1)
    monkeypatch.setattr(devices, "find_cluster", lambda: cluster)
    monkeypatch.setattr(
        devices, "wait_for_all", lambda *arguments: waited.append((*arguments, os.environ["TF_CONFIG"]))
    )
    monkeypatch.setenv("TF_CONFIG", "before")
    waited = []
    make_strategy(DeviceSettings(), "auto", connect_minutes=2.5)
    assert waited == [(cluster, 2.5, "before")]
    assert os.environ["TF_CONFIG"] == cluster.to_tf_config()


@pytest.mark.parametrize(
    ("capability", "words"),
    [((6, 1), None), ((7, 5), None), ((8, 6), None), ((9, 0), None), ((10, 0), "PTX"), ((12, 0), "PTX")],
)
def test_a_gpu_newer_than_the_wheel_is_reported(play, caplog, capability, words):
    play(1, capability)
    make_strategy(DeviceSettings())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if words is None:
        assert not warnings
    else:
        (line,) = warnings
        assert line.startswith(f"NVIDIA Test: compute capability {capability[0]}.0, and TensorFlow {tf.__version__} is")
        assert words in line


@pytest.mark.parametrize(
    ("capability", "built_for"), [((5, 2), ("sm_60", "compute_90")), ((9, 0), ("sm_80", "sm_100"))]
)
def test_a_gpu_that_the_wheel_has_no_code_for_is_rejected(play, capability, built_for):
    play(1, capability, built_for)
    with pytest.raises(UsageError, match=r"NVIDIA Test: compute capability \d\.\d.* cannot use this GPU"):
        make_strategy(DeviceSettings())


def test_this_wheel_says_what_it_is_built_for():
    built_for = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])
    if not tf.test.is_built_with_cuda():
        pytest.skip("TensorFlow is built without CUDA")
    assert built_for
    assert all(each.startswith(("sm_", "compute_")) for each in built_for)


@pytest.mark.parametrize(("index", "is_chief"), [(0, True), (1, False)])
def test_only_the_chief_logs_and_shows_progress(play, caplog, index, is_chief):
    play(0)
    devices.logger.setLevel(logging.INFO)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    strategy.cluster_resolver = SimpleNamespace(task_id=index)
    workers = Workers(strategy)
    devices.logger.info("for all")
    devices.logger.warning("of one")
    assert (workers.is_chief, Progress.is_shown) == (is_chief, is_chief)
    assert [record.getMessage() for record in caplog.records] == ["for all", "of one"][not is_chief :]


def _task(monkeypatch, index, **variables):
    """Makes this process a task of a step of two on each of two nodes."""
    for name in ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPUS_ON_NODE", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    step = {
        "SLURM_STEP_NUM_TASKS": 4,
        "SLURM_STEP_NODELIST": "gpu[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_PROCID": index,
        "SLURM_JOB_ID": 7,
    }
    for name, value in {**step, **variables}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TF_CONFIG", "")


@pytest.mark.parametrize(("index", "names"), [(0, "02"), (1, "13"), (2, "02"), (3, "13")])
def test_tasks_of_a_node_share_its_gpus(play, monkeypatch, index, names):
    """As srun --ntasks-per-node=2 --gpus-per-node=4 starts them: each task sees all four."""
    settings = play(4)
    _task(monkeypatch, index, SLURM_GPUS_ON_NODE=4)
    assert _chosen(make_strategy(DeviceSettings(), "auto"))[0] == "MultiWorkerMirroredStrategy"
    assert "".join(gpu.name[-1] for gpu in settings.visible) == names


@pytest.mark.parametrize("variables", [{"SLURM_GPUS_PER_TASK": 1}, {"SLURM_GPUS_ON_NODE": 2}])
def test_a_task_keeps_a_gpu_of_its_own(play, monkeypatch, variables):
    """As --gpus-per-task=1 or --gpu-bind=single:1 give it."""
    settings = play(1)
    _task(monkeypatch, 1, **variables)
    make_strategy(DeviceSettings(), "auto")
    assert [gpu.name[-1] for gpu in settings.visible] == ["0"]


def test_an_empty_variable_gives_a_task_no_gpu_of_its_own(play, monkeypatch):
    settings = play(2)
    _task(monkeypatch, 1, SLURM_GPUS_PER_TASK="")
    make_strategy(DeviceSettings(), "auto")
    assert [gpu.name[-1] for gpu in settings.visible] == ["1"]


def test_tasks_that_cannot_share_are_refused(play, monkeypatch):
    play(1)
    _task(monkeypatch, 1, SLURM_GPUS_ON_NODE=1)
    with pytest.raises(UsageError, match=r"^srun: 2 tasks on this host see 1 GPU; .*--gpus-per-task=1"):
        make_strategy(DeviceSettings(), "auto")
    make_strategy(DeviceSettings(num_gpus=0), "auto")


def test_slices_of_a_card_are_refused_by_name(play, monkeypatch):
    play(2, name="NVIDIA A100-SXM4-40GB MIG 3g.20gb")
    _task(monkeypatch, 0)
    with pytest.raises(UsageError, match=r"^NVIDIA A100-SXM4-40GB MIG 3g.20gb: a slice of a card"):
        make_strategy(DeviceSettings(), "auto")


def test_gpus_that_tensorflow_leaves_out_are_said(play, caplog):
    play(3, small=1)
    (line,) = _warnings_of(caplog, DeviceSettings())
    assert line.startswith("TensorFlow uses 2 of 3 GPUs")
    assert _chosen(make_strategy(DeviceSettings())) == ("MirroredStrategy", ["GPU:0", "GPU:1"])
    with pytest.raises(UsageError, match=r"^--num_gpus=3: TensorFlow uses 2 of 3 GPUs"):
        make_strategy(DeviceSettings(3))


@pytest.fixture
def pci(tmp_path, monkeypatch):
    """A function that adds a device to a PCI bus that is empty otherwise."""
    bus = tmp_path / "pci"
    bus.mkdir()
    monkeypatch.setattr(gpus, "PCI_DEVICES", bus)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "nvidiactl")

    def add(vendor, kind):
        device = bus / f"0000:0{len(list(bus.iterdir()))}:00.0"
        device.mkdir()
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")

    return add


def _warnings_of(caplog, *arguments):
    caplog.clear()
    make_strategy(*arguments)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_gpus_that_tensorflow_does_not_see_are_reported(play, pci, caplog, monkeypatch):
    play(0)
    pci("0x10de", "0x040300")  # the audio device of a graphics card
    pci("0x1002", "0x030000")  # another maker's
    assert _warnings_of(caplog, DeviceSettings()) == []
    pci("0x10de", "0x030200")
    pci("0x10de", "0x030000")
    (line,) = _warnings_of(caplog, DeviceSettings())
    assert "2 NVIDIA GPUs that TensorFlow does not see: no NVIDIA driver" in line
    assert "pip install 'tensorflow[and-cuda]'" in line
    with pytest.raises(UsageError, match=r"--num_gpus=1: TensorFlow sees 0 GPUs.*no NVIDIA driver"):
        make_strategy(DeviceSettings(1))

    gpus.DRIVER.touch()
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None)
    assert "the CUDA libraries are not installed" in _warnings_of(caplog, DeviceSettings())[0]
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: "found")
    assert "the driver may be too old" in _warnings_of(caplog, DeviceSettings())[0]


def test_a_cpu_by_choice_is_not_reported(play, pci, caplog, monkeypatch):
    play(0)
    pci("0x10de", "0x030200")
    assert len(_warnings_of(caplog, DeviceSettings())) == 1
    assert _warnings_of(caplog, DeviceSettings(0)) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _warnings_of(caplog, DeviceSettings()) == []


def test_a_gpu_in_use_keeps_its_memory_settings(play, monkeypatch, caplog):
    settings = play(2)
    gpus.enable_memory_growth()
    assert [on for _, on in settings.growth] == [True, True]

    def fail(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", fail)
    gpus.enable_memory_growth()


class Loading(Exception):
    """The model would now be loaded, on the GPU."""


@pytest.mark.parametrize("program", ["run", "export", "deeplab.export"])
def test_programs_without_a_strategy_take_memory_as_needed(play, monkeypatch, tmp_path, program):
    """deeplab.predict goes through deeplab.load, and that through Model.from_run or Model.from_export."""
    settings = play(2)

    def load(*arguments):
        assert [on for _, on in settings.growth] == [True, True]
        raise Loading

    monkeypatch.setattr(api, "load_model", load)
    monkeypatch.setattr(export.run_folder, "load_model", load)
    monkeypatch.setattr(tf.saved_model, "load", load)
    (tmp_path / api.DESCRIPTION).write_text('{"class_names": ["a", "b"]}')
    wanted = {
        export.ExportSettings: export.ExportSettings(model_dir=tmp_path, export_dir=tmp_path / "new"),
        export.Interface: export.Interface(),
        LoadSettings: LoadSettings(),
    }
    start = {
        "run": lambda: api.Model.from_run(tmp_path),
        "export": lambda: api.Model.from_export(tmp_path),
        "deeplab.export": lambda: export.main(wanted, []),
    }
    with pytest.raises(Loading):
        start[program]()


def test_evaluation_does_not_time_algorithms_and_training_does(monkeypatch):
    """TensorFlow reads the variable when a kernel is built, at the first call of a function."""
    monkeypatch.setenv(gpus.AUTOTUNE, "")  # so that it is reset afterwards
    monkeypatch.delenv(gpus.AUTOTUNE)
    seen = []
    model = api.Model(lambda images: seen.append(os.environ.get(gpus.AUTOTUNE)), None, ("a", "b"))
    with pytest.raises(TypeError):  # no results
        model.segment(np.zeros((2, 2, 3), np.uint8))
    assert seen == ["0"]
    assert gpus.AUTOTUNE not in os.environ
    monkeypatch.setenv(gpus.AUTOTUNE, "1")
    with pytest.raises(TypeError):
        model.segment(np.zeros((2, 2, 3), np.uint8))
    assert seen == ["0", "1"]
    assert os.environ[gpus.AUTOTUNE] == "1"


def test_the_evaluator_does_not_time_algorithms(monkeypatch):
    monkeypatch.setenv(gpus.AUTOTUNE, "")
    monkeypatch.delenv(gpus.AUTOTUNE)
    seen = []

    def fail(batches):
        seen.append(os.environ.get(gpus.AUTOTUNE))
        raise RuntimeError("as a kernel may")

    evaluate = object.__new__(Evaluator)
    evaluate._predict = SimpleNamespace(read_weights=lambda: None)
    evaluate._split = SimpleNamespace(num_examples=1)
    evaluate._num_steps, evaluate._batches, evaluate._evaluate_step = 1, None, fail
    with pytest.raises(RuntimeError, match="as a kernel may"):
        evaluate()
    assert seen == ["0"]
    assert gpus.AUTOTUNE not in os.environ
