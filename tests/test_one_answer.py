"""One image, one answer: its classes depend only on that image, however it is segmented."""

import io
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED_DATA, ViewerOf, make_strategy, write_mask
from PIL import Image

import deeplab
from deeplab.api import ONE_PASS
from deeplab.commands.export.saved_model import Segmenter, write_saved_model
from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.shards.records import decode_image
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.write import prepare
from deeplab.data.source import voc
from deeplab.data.source.images import read_image
from deeplab.evaluator import Evaluator
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.inference import Predictor
from deeplab.model.settings import Inference, ModelConfig
from deeplab.run.run_folder import record_run
from deeplab.training import boundary, metrics
from deeplab.training.boundary import BoundaryScores, boundaries, dilate
from deeplab.training.losses import Loss
from deeplab.training.metrics import scores

CLASSES = tuple("abcdef")
SIZES = [(70, 52), (90, 60), (70, 52), (16, 12), (1, 1), (131, 40), (90, 60), (33, 33)]  # width, height


def _write_data(folder, sizes, seed=0):
    """Writes a split `val` of noise; an image depends only on its name, not on the others."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for index, (width, height) in enumerate(sizes):
        rng = np.random.default_rng((seed, index))
        coarse = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        pixels = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{index}.jpg", quality=90)
        write_mask(folder / "SegmentationClass" / f"{index}.png", rng.choice([0, 1, 2, 3, 4, 5, 255], (height, width)))
    return [str(index) for index in range(len(sizes))]


def _split(folder, names, target):
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    return prepare(ShardSettings(voc_dir=folder, num_shards=2), target, "val", CLASSES)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "voc"
    return folder, _write_data(folder, SIZES)


@pytest.fixture(scope="module")
def model():
    """With statistics and logits as after training: all classes occur."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(2)
    network = build_deeplabv3(ModelConfig(CLASSES, backbone="mobilenet_v2"))
    rng = np.random.default_rng(0)
    for variable in network.weights:
        if variable.path.endswith("moving_variance"):
            variable.assign(rng.uniform(0.05, 0.2, variable.shape))
    (classifier,) = (layer for layer in network.layers if layer.name == "logits")
    classifier.kernel.assign(rng.normal(0, 3, classifier.kernel.shape))
    pixels = rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    logits = network(pixels[np.newaxis])
    classifier.bias.assign(-np.median(logits, (0, 1, 2)))
    return network


def _masks(model, split, strategy=None, max_images=1, inference=ONE_PASS):
    """Name -> prediction, and the evaluation."""
    seen = {}

    def viewer(name, image, truth, prediction):
        seen[name] = prediction

    strategy = strategy or tf.distribute.get_strategy()
    batches = EvaluationBatches(split, max_images, 2**20)
    with strategy.scope():
        predict = Predictor(model, inference)
    evaluate = Evaluator(strategy, predict, Loss(len(CLASSES)), batches, viewers=[ViewerOf(viewer)])
    return seen, evaluate()


@pytest.fixture(scope="module")
def alone(data, model, tmp_path_factory):
    """The masks of all images, in one split."""
    folder, names = data
    masks, evaluation = _masks(model, _split(folder, names, tmp_path_factory.mktemp("alone")))
    assert [masks[name].shape[::-1] for name in names] == SIZES
    assert len(np.unique(np.concatenate([mask.ravel() for mask in masks.values()]))) > 2
    return masks, evaluation


def test_another_image_and_another_order_change_no_mask(data, alone, model, tmp_path):
    folder, names = data
    shutil.copytree(folder, tmp_path / "voc")
    Image.new("RGB", (400, 300), "teal").save(tmp_path / "voc" / "JPEGImages" / "large.jpg")
    write_mask(tmp_path / "voc" / "SegmentationClass" / "large.png", np.full((300, 400), 255))  # without a label
    masks, evaluation = _masks(model, _split(tmp_path / "voc", ["large", *names[::-1]], tmp_path / "shards"))
    assert masks.pop("large").shape == (300, 400)
    assert masks.keys() == alone[0].keys()
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, alone[0][name], err_msg=name)
    np.testing.assert_array_equal(evaluation.confusion, alone[1].confusion)
    assert evaluation.num_images == len(names) + 1


@pytest.mark.parametrize("num_replicas", [2, 4])
def test_replicas_that_see_other_sizes_change_no_mask(data, alone, model, tmp_path, num_replicas):
    folder, names = data
    strategy = make_strategy(num_replicas)
    keras.backend.clear_session()
    with strategy.scope():
        mirrored = build_deeplabv3(ModelConfig(CLASSES, backbone="mobilenet_v2"))
    mirrored.set_weights(model.get_weights())
    masks, evaluation = _masks(mirrored, _split(folder, names, tmp_path), strategy)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, alone[0][name], err_msg=name)
    np.testing.assert_array_equal(evaluation.confusion, alone[1].confusion)
    assert (evaluation.num_images, masks.keys()) == (len(names), alone[0].keys())


def test_images_of_one_size_in_a_batch_are_scored_alike(data, alone, model, tmp_path):
    """Up to rounding, which may change single pixels."""
    folder, names = data
    masks, evaluation = _masks(model, _split(folder, names, tmp_path), max_images=4)
    assert evaluation.num_images == len(names)
    differing = sum(int((masks[name] != alone[0][name]).sum()) for name in names)
    assert differing <= 5


@pytest.mark.parametrize(
    "inference", [Inference(), Inference((0.5, 1.0), flip=True), Inference(window_size=48, window_overlap=0.25)]
)
def test_predict_gives_the_masks_that_are_scored(data, model, tmp_path, inference):
    folder, names = data
    masks, _ = _masks(model, _split(folder, names, tmp_path), inference=inference)
    loaded = deeplab.Model.from_keras(model, CLASSES, inference)
    for name in names:
        image = read_image(folder / "JPEGImages" / f"{name}.jpg")
        np.testing.assert_array_equal(loaded.segment(image), masks[name], err_msg=name)
        classes, probabilities = loaded.classes_and_probabilities(image)
        np.testing.assert_array_equal(classes, masks[name], err_msg=name)
        assert probabilities.shape == (*classes.shape, len(CLASSES))


def test_the_saved_model_gives_the_masks_that_are_scored(data, alone, model, tmp_path):
    folder, names = data
    write_saved_model(Segmenter(model), ModelConfig(CLASSES), "checkpoint", tmp_path / "export")
    exported = deeplab.load(tmp_path / "export")
    encoded = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    for name in names:
        path = folder / "JPEGImages" / f"{name}.jpg"
        np.testing.assert_array_equal(exported.segment(read_image(path)), alone[0][name])
        by_bytes = encoded(image_bytes=tf.constant([path.read_bytes()]))["classes"][0]
        np.testing.assert_array_equal(by_bytes, alone[0][name])
    pair = [name for name, size in zip(names, SIZES, strict=True) if size == SIZES[0]]
    stack = np.stack([read_image(folder / "JPEGImages" / f"{name}.jpg") for name in pair])
    np.testing.assert_array_equal(exported.segment(stack), np.stack([alone[0][name] for name in pair]))


def test_scores_are_those_of_the_masks(data, alone):
    """In NumPy, pixel by pixel, with each class as a set."""
    folder, names = data
    masks, evaluation = alone
    truth = np.concatenate([np.array(Image.open(folder / "SegmentationClass" / f"{n}.png")).ravel() for n in names])
    predicted = np.concatenate([masks[name].ravel() for name in names])
    truth, predicted = truth[truth != 255], predicted[truth != 255]
    result = evaluation.scores
    ious, weights = [], []
    for index in range(len(CLASSES)):
        of_truth, of_prediction = truth == index, predicted == index
        hits = (of_truth & of_prediction).sum()
        ious.append(hits / (of_truth | of_prediction).sum())
        weights.append(of_truth.mean())
        assert result.per_class_iou[index] == pytest.approx(ious[-1], abs=1e-12)
        assert result.per_class_recall[index] == pytest.approx(hits / of_truth.sum(), abs=1e-12)
        if of_prediction.any():
            precision, recall = hits / of_prediction.sum(), hits / of_truth.sum()
            assert result.per_class_precision[index] == pytest.approx(precision, abs=1e-12)
            if hits:
                expected = 2 * precision * recall / (precision + recall)
                assert result.per_class_f1[index] == pytest.approx(expected, abs=1e-12)
        else:
            assert result.per_class_precision[index] is None
    assert result.mean_iou == pytest.approx(np.mean(ious), abs=1e-12)
    assert result.foreground_mean_iou is None  # class 0 is called a
    assert result.frequency_weighted_iou == pytest.approx(np.dot(ious, weights), abs=1e-12)


def _jpegs(folder, limit):
    paths = sorted((SHARED_DATA / folder / "JPEGImages").glob("*.jpg"))[:limit]
    if not paths:
        pytest.skip(f"needs {SHARED_DATA / folder}")
    return paths


@pytest.mark.parametrize("folder", ["voc2012_sample", "camvid_voc"])
def test_jpegs_are_decoded_as_pillow_does(folder):
    """Real images unchanged, and in every form that cameras and editors write."""
    forms = [
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"subsampling": 2}),
        ("RGB", {"progressive": True}),
        ("L", {}),
        ("CMYK", {}),
    ]
    for path in _jpegs(folder, 10):
        contents = [path.read_bytes()]
        with Image.open(path) as image:
            for mode, options in forms:
                buffer = io.BytesIO()
                image.crop((0, 0, 201, 133)).convert(mode).save(buffer, "JPEG", quality=88, **options)
                contents.append(buffer.getvalue())
        for content in contents:
            with Image.open(io.BytesIO(content)) as image:
                np.testing.assert_array_equal(decode_image(content), np.array(image.convert("RGB")))


def test_boundaries_and_trimaps_by_hand():
    labels = np.zeros((5, 7), np.uint8)
    labels[2, 3] = 1
    edge = np.zeros((5, 7), bool)
    for row, column in [(2, 3), (1, 3), (3, 3), (2, 2), (2, 4)]:
        edge[row, column] = True
    np.testing.assert_array_equal(boundaries(labels), edge)
    one = np.zeros((5, 7), bool)
    one[0, 6] = True
    expected = np.zeros((5, 7), bool)
    expected[:3, 4:] = True
    np.testing.assert_array_equal(dilate(one, 2), expected)
    assert not boundaries(np.zeros((3, 3), np.uint8)).any()


@pytest.mark.parametrize("pixels_at_once", [2**20, 400])
def test_boundary_scores_equal_those_of_the_pixels_near_an_edge(monkeypatch, pixels_at_once):
    """Computed from the distance of every pixel to every boundary pixel; the whole image at once, and in bands."""
    monkeypatch.setattr(boundary, "_PIXELS_AT_ONCE", pixels_at_once)
    monkeypatch.setattr(metrics, "_PIXELS_AT_ONCE", pixels_at_once)
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 255], (6, 8), p=[0.4, 0.4, 0.2]).repeat(9, 0).repeat(9, 1).astype(np.uint8)
    prediction = np.roll(np.where(truth == 255, 0, truth), 2, 1)
    measured = BoundaryScores(2)
    measured.view("name", None, truth, prediction)
    measured.view("flat", None, np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8))  # no boundary, nothing counted
    rows, columns = np.nonzero(boundaries(truth))
    grid = np.indices(truth.shape)
    distance = np.min(
        [np.maximum(abs(grid[0] - r), abs(grid[1] - c)) for r, c in zip(rows, columns, strict=True)], axis=0
    )
    result = measured.results()["boundary_mean_iou"]
    assert (min(result), max(result)) == (1, 40)
    for width, mean_iou in result.items():
        near = (distance <= width) & (truth != 255)
        matrix = np.zeros((2, 2), int)
        np.add.at(matrix, (truth[near], prediction[near]), 1)
        assert mean_iou == scores(matrix).mean_iou
    assert result[1] < result[40]


def test_a_loaded_run_gives_the_same_masks(data, alone, model, tmp_path):
    folder, _ = data
    config = ModelConfig(CLASSES, backbone="mobilenet_v2")
    record_run(tmp_path, config, "")
    tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
    (tmp_path / "checkpoints" / "best").mkdir(parents=True)
    for path in tmp_path.glob("ckpt-1*"):
        path.rename(tmp_path / "checkpoints" / "best" / path.name)
    loaded = deeplab.load(tmp_path)
    for name in voc.read_split(folder, "val"):
        image = read_image(folder / "JPEGImages" / f"{name}.jpg")
        np.testing.assert_array_equal(loaded.segment(image), alone[0][name])
        assert loaded.probabilities(image).shape == (*image.shape[:2], len(CLASSES))
    assert isinstance(loaded.keras_model, keras.Model)


def test_classes_alone_are_computed_without_probabilities(model):
    predictor = Predictor(model)
    operations = {}
    for with_probabilities in (False, True):
        segment = deeplab.api.make_segmenter(predictor, with_probabilities).get_concrete_function()
        assert set(segment.structured_outputs) == {"classes"} | ({"probabilities"} if with_probabilities else set())
        operations[with_probabilities] = {operation.type for operation in segment.graph.get_operations()}
    assert "ArgMax" in operations[False]
    assert operations[True] - operations[False] == {"Softmax"}
