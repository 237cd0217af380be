"""An evaluation is exact on any number of replicas, against NumPy."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import ViewerOf, make_strategy
from small_step import BATCH, SIZE, STEPS, K, _batches, _dataset, small_model

from deeplab.evaluator import Evaluator
from deeplab.model.inference import MIN_SIDE, Predictor
from deeplab.training.losses import Loss
from deeplab.training.settings import LossSettings


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_evaluation_is_exact_on_any_number_of_replicas(num_replicas):
    batches = _batches()
    for number, batch in enumerate(batches):
        batch["is_example"] = np.ones(BATCH, np.int64)
        batch["name"] = np.array([f"{number}_{row}" for row in range(BATCH)])
    batches[-1]["label"][2:] = 255
    batches[-1]["is_example"][2:] = 0
    strategy = make_strategy(num_replicas)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = small_model()
        predict = Predictor(model)
    loss = Loss(K, LossSettings("cross_entropy_dice"))
    seen = []

    class Batches:
        """A stand-in for the batches of a split's shards."""

        split = SimpleNamespace(folder="shards", class_names=("a", "b", "c"), num_examples=STEPS * BATCH)

        def num_steps(self, context):
            return STEPS

        def for_worker(self, context):
            return _dataset(batches).rebatch(context.get_per_replica_batch_size(BATCH)).repeat()

    def viewer(name, image, label, prediction):
        seen.append((name, prediction))

    evaluate = Evaluator(strategy, predict, loss, Batches(), viewers=[ViewerOf(viewer)])
    result, again = evaluate(), evaluate()
    np.testing.assert_array_equal(again.confusion, result.confusion)
    assert again.losses == pytest.approx(result.losses)

    images = np.concatenate([batch["image"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    extended = np.pad(images, [(0, 0), (0, MIN_SIDE - SIZE), (0, MIN_SIDE - SIZE), (0, 0)])
    logits = model(extended, training=False)[:, :SIZE, :SIZE].numpy().astype(np.float64)
    predictions = logits.argmax(-1)
    valid = labels != 255
    expected = np.zeros((K, K), int)
    np.add.at(expected, (labels[valid], predictions[valid]), 1)
    np.testing.assert_array_equal(result.confusion, expected)
    of_examples = predictions[:-2]  # without the two fillers
    seen.sort(key=lambda example: example[0])  # threads view them
    assert [name for name, _ in seen] == [f"{i // BATCH}_{i % BATCH}" for i in range(len(of_examples)) for _ in "12"]
    np.testing.assert_array_equal(np.stack([prediction for _, prediction in seen]), np.repeat(of_examples, 2, 0))
    assert result.num_images == STEPS * BATCH - 2
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropy = -np.log(probabilities[valid][np.arange(valid.sum()), labels[valid]]).mean()
    dice = [
        1 - 2 * probabilities[labels == c][:, c].sum() / (probabilities[valid][:, c].sum() + (labels == c).sum())
        for c in range(K)
    ]
    assert result.losses["cross_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert result.losses["dice"] == pytest.approx(np.mean(dice), rel=1e-5)
