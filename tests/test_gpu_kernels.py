"""Nothing large of a step is computed by the host while GPUs train; by TensorFlow's registry of kernels."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy
from host_tensors import has_gpu_kernels, host_tensors
from small_step import small_model

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.settings import AugmentationSettings
from deeplab.model.deeplabv3 import build_deeplabv3, freeze_batch_norm
from deeplab.model.inference import Predictor
from deeplab.model.settings import Inference, ModelConfig
from deeplab.training.evaluate_step import make_evaluate_step
from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import LossSettings, OptimizerSettings, ScheduleSettings, StepSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step

K, CROP, BATCH = 3, 65, 2  # a crop's labels have more than 4 kB
CROSS_ENTROPY, ONE_PASS = LossSettings(), Inference()
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@pytest.fixture(autouse=True)
def _as_on_gpus(monkeypatch):
    """The form that each part takes on GPUs; the devices are logical CPUs, of which the first is the host."""
    if not has_gpu_kernels():
        pytest.skip("this TensorFlow is built without GPU kernels")
    real = tf.config.list_logical_devices
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: ["GPU:0"] if kind == "GPU" else real(kind))
    yield
    keras.config.set_dtype_policy("float32")


def _strategy(num_replicas):
    make_strategy(1)  # a new range of collective keys
    return tf.distribute.MirroredStrategy([f"CPU:{1 + index}" for index in range(num_replicas)])


def _batches(strategy, with_shifts):
    """An iterator of one endless batch: crops, or whole images."""
    size = (CROP, CROP) if with_shifts else (75, 50)
    batch = {"image": np.zeros((BATCH, *size, 3), np.uint8), "label": np.zeros((BATCH, *size), np.uint8)}
    if with_shifts:
        batch["shifts"] = np.zeros((BATCH, 3), np.float32)
    else:
        batch |= {"is_example": np.ones(BATCH, np.int64), "name": np.array(["a"] * BATCH)}
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    return iter(strategy.distribute_datasets_from_function(lambda context: dataset))


def _training(build, num_replicas=2, precision="float32", optimizer="sgd", loss=CROSS_ENTROPY, exact=False, **step):
    """The traced training step."""
    keras.config.set_dtype_policy(POLICIES[precision])
    strategy = _strategy(num_replicas)
    with strategy.scope():
        model = build()
        schedule = Schedule(ScheduleSettings("constant", 0), 0.1, 10, tf.Variable(1.0, trainable=False))
        settings = OptimizerSettings(optimizer, ema_momentum=0.9)
        optimizer = make_optimizer(settings, schedule, model.trainable_variables, precision == "float16")
    state = TrainState(model, model, optimizer, schedule)
    finish = Augmentation(AugmentationSettings(CROP)).finish
    train = make_train_step(
        strategy,
        state,
        Loss(K, loss, (1.0, 2.0, 3.0)),
        StepSettings(**step),
        weight_decay=1e-4,
        finish=finish,
        deterministic=exact,
    )
    return train.get_concrete_function(_batches(strategy, with_shifts=True), tf.constant(1))


def _evaluation(build, inference=ONE_PASS):
    """The traced evaluation step."""
    strategy = _strategy(2)
    with strategy.scope():
        network = build()
        predict = Predictor(network, inference)
    evaluate = make_evaluate_step(strategy, predict, Loss(K))
    return evaluate.get_concrete_function(_batches(strategy, with_shifts=False))


def _assert_nothing_for_the_host(function):
    found = host_tensors(function, "CPU:1")
    print(*found, sep="\n")
    assert not found


def test_it_finds_what_the_host_computes():
    """int32 arithmetic is the host's; a map over uint8 images has lists without a GPU kernel."""

    @tf.function
    def step(images):
        with tf.device("CPU:1"):
            small = tf.reduce_sum(tf.shape(images))
            compared = tf.cast(images, tf.int32) != small
            mapped = tf.map_fn(lambda image: tf.cast(image, tf.float32), images, fn_output_signature=tf.float32)
            return compared, mapped

    found = host_tensors(step.get_concrete_function(tf.TensorSpec([2, 65, 65, 3], tf.uint8)), "CPU:1")
    assert {op for op, *_ in found} >= {"NotEqual", "TensorListFromTensor"}
    assert all("65" in reason for *_, reason in found)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_replicas": 1},
        {"precision": "bfloat16", "loss": LossSettings("cross_entropy_dice", label_smoothing=0.1, focal_gamma=2.0)},
        {"precision": "float16", "clip_norm": 1.0, "optimizer": "adamw"},
        {"loss": LossSettings(hard_pixel_fraction=0.25), "accumulate_steps": 2},
        {"exact": True, "loss": LossSettings("dice")},
    ],
    ids=str,
)
def test_a_training_step_leaves_nothing_to_the_host(options):
    function = _training(functools.partial(small_model, dropout_rate=0.1), **options)
    _assert_nothing_for_the_host(function)


@pytest.mark.parametrize("inference", [ONE_PASS, Inference((0.75, 1.0), flip=True), Inference(window_size=40)])
def test_an_evaluation_step_leaves_nothing_to_the_host(inference):
    _assert_nothing_for_the_host(_evaluation(small_model, inference))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v3_large", "efficientnet_v2_b0"])
def test_the_networks_leave_nothing_to_the_host(backbone):
    config = ModelConfig(tuple("abc"), backbone, decoder=True, separable_aspp=True)

    def build():
        model = build_deeplabv3(config)
        if backbone == "resnet50":
            freeze_batch_norm(model)
        return model

    _assert_nothing_for_the_host(_training(build, num_replicas=1, precision="bfloat16"))
    _assert_nothing_for_the_host(_evaluation(build))
