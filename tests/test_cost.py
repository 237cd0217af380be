"""What a run says of its size and cost, against hand-worked numbers, published ones and TensorFlow's gradient graph."""

import keras
import pytest
import tensorflow as tf

from deeplab.model.convolution import AtrousConv2D
from deeplab.model.cost import COPIES_OF_LOGITS, activation_bytes, forward_flop
from deeplab.model.normalization import BatchNormalization
from deeplab.model.recomputation import RecomputedNetwork
from deeplab.run.provenance import describe, read_description, record_start, run_size
from deeplab.training.optimizer import make_optimizer
from deeplab.training.plan import Plan
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState


def _small_network():
    """3x3 to 4 channels, normalisation, ReLU, 1x1 to 2 classes."""
    images = keras.Input((None, None, 3))
    features = AtrousConv2D(4, 3, padding="same", use_bias=False)(images)
    features = keras.layers.ReLU()(BatchNormalization()(features))
    return keras.Model(images, AtrousConv2D(2, 1)(features))


def test_a_small_network_costs_what_is_worked_out_by_hand():
    network = _small_network()
    assert forward_flop(network, 8) == 2 * 64 * (3 * 3 * 3 * 4 + 4 * 2)
    kept = 64 * (3 + 4 + 4)  # images, the input of normalisation, the output of ReLU
    assert activation_bytes(network, 8) == 4 * (kept + COPIES_OF_LOGITS * 64 * 2)
    recomputed = RecomputedNetwork(network.input, network.output)
    kept = 64 * (3 + 4)  # images, the output of the 3x3 convolution
    assert activation_bytes(recomputed, 8) == 4 * (kept + COPIES_OF_LOGITS * 64 * 2)


@pytest.mark.parametrize(
    ("application", "multiply_adds", "tolerance"),
    [
        (keras.applications.ResNet50, 3.8e9, 0.02),  # arXiv 1512.03385, table 1
        (keras.applications.MobileNetV2, 300e6, 0.01),  # arXiv 1801.04381, table 4
    ],
)
def test_classification_networks_cost_what_their_papers_say(application, multiply_adds, tolerance):
    assert forward_flop(application(weights=None), 224) == pytest.approx(2 * multiply_adds, rel=tolerance)


def test_activations_are_the_tensors_that_the_gradient_graph_reads():
    inner_images = keras.Input((None, None, 3))
    inner = keras.layers.ZeroPadding2D(1)(inner_images)
    inner = AtrousConv2D(8, 3, strides=2, use_bias=False)(inner)
    inner = keras.layers.Activation("relu")(BatchNormalization()(inner))
    inner = keras.layers.MaxPooling2D(3, 2, padding="same")(inner)
    shortcut = AtrousConv2D(8, 1, use_bias=False)(inner)
    inner = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(inner)
    inner = keras.layers.Add()([BatchNormalization()(inner), BatchNormalization()(shortcut)])
    backbone = keras.Model(inner_images, keras.layers.ReLU(6.0)(inner))
    images = keras.Input((None, None, 3))
    features = backbone(images)
    features = keras.layers.Concatenate()([features, AtrousConv2D(4, 1, use_bias=False)(features)])
    network = keras.Model(images, AtrousConv2D(2, 1, use_bias=False)(features))

    read = {}

    @tf.function(autograph=False)
    def gradients(image):
        with tf.GradientTape() as tape:
            logits = network(image, training=True)
        forward = set(logits.graph.get_operations())
        found = tape.gradient(logits, network.trainable_variables)
        for operation in set(logits.graph.get_operations()) - forward:
            for tensor in operation.inputs:
                if tensor.op.type == "Reshape" and tensor.shape.rank == 2:  # for a 1x1 kernel: the same memory
                    tensor = tensor.op.inputs[0]
                if tensor.op in forward and tensor.shape.rank == 4 and tensor.op.type != "ReadVariableOp":
                    read[tensor.ref()] = 4 * tensor.shape.num_elements()
        return found

    gradients.get_concrete_function(tf.TensorSpec([1, 32, 32, 3]))
    logits = COPIES_OF_LOGITS * 4 * 8 * 8 * 2
    assert activation_bytes(network, 32) - logits == sum(read.values())


@pytest.fixture
def state():
    network = _small_network()
    schedule = Schedule(ScheduleSettings("constant"), 0.001, 1, tf.Variable(1.0, trainable=False))
    optimizer = make_optimizer(OptimizerSettings(), schedule, network.trainable_variables, loss_scaling=False)
    state = TrainState(network, network, optimizer, schedule)
    state.num_replicas.assign(2)
    return state


def test_the_size_of_a_run_is_counted(state):
    size = run_size(state, Plan(num_examples=40, global_batch_size=8, epochs=3), crop_size=8, accumulate_steps=2)
    trained = 3 * 3 * 3 * 4 + 2 * 4 + 4 * 2 + 2  # kernel, scale and offset, kernel, bias
    moving = 2 * 4
    weights_momentum_two_gradients = 4 * (trained + moving) + 3 * 4 * trained
    step_bytes = weights_momentum_two_gradients + 2 * activation_bytes(state.model, 8)  # two images at a time
    assert size == {
        "parameters": trained + moving,
        "trainable_parameters": trained,
        "flop_per_image": forward_flop(state.model, 8),
        "crop_size": 8,
        "images": 40,
        "classes": 2,
        "steps": 15,
        "global_batch_size": 8,
        "replicas": 2,
        "step_bytes": pytest.approx(step_bytes, abs=16),  # the optimizer also has counters
    }


def test_a_run_is_described_in_words():
    size = {"parameters": 39_131_285, "trainable_parameters": 39_070_000, "flop_per_image": 99_235_885_952}
    size |= {"crop_size": 513, "images": 10_582, "classes": 21, "steps": 30_000, "global_batch_size": 16}
    assert list(describe(size | {"replicas": 4, "step_bytes": 3_040_000_000}).values()) == [
        "39.1 M parameters, 39.1 M trained",
        "99.24 GFLOP per image of 513x513",
        "10,582 images per epoch, 21 classes",
        "30,000 steps of 16 images (45.4 epochs)",
        "at least 3.04 GB for a step on each of 4 replicas",
    ]


def test_the_newest_start_is_read(state, tmp_path):
    assert read_description(tmp_path) == {}
    for examples in (40, 80):
        record_start(tmp_path, state, Plan(num_examples=examples), crop_size=8, accumulate_steps=1)
    assert read_description(tmp_path)["training data"] == "80 images per epoch, 2 classes"
    (tmp_path / "starts.jsonl").write_text('{"time": "of an older version"}\n')
    assert read_description(tmp_path) == {}
