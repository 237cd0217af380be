"""Speed of a dilated convolution tap by tap compared with Keras's own, forward and backward.

python bench/speed/dilated_convolution.py

3x3, 2048 -> 256 channels, on 24x24 features of a batch of 2: ASPP on ResNet-50 at 384x384. Prints a table and a
JSON line of ratios; the two forms take turns, so that other load on the machine affects both.
"""

import json
import statistics
import time
from collections.abc import Callable

import keras
import tensorflow as tf

from deeplab.model.convolution import AtrousConv2D

RATES = (6, 12, 18)
ROUNDS = 7


def timed_step(layer_class: type[keras.layers.Conv2D], rate: int) -> Callable[[], float]:
    """A function that runs forward and backward once and returns its seconds."""
    layer = layer_class(256, 3, padding="same", dilation_rate=rate, use_bias=False)
    features = tf.random.stateless_normal([2, 24, 24, 2048], [0, 0])
    layer.build(features.shape)

    @tf.function
    def step(inputs: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
        return tape.gradient(outputs, [inputs, layer.kernel.value])

    def run() -> float:
        start = time.perf_counter()
        for gradient in step(features):
            gradient.numpy()
        return time.perf_counter() - start

    run()  # traces and compiles
    return run


def main() -> None:
    """Medians of `ROUNDS` runs of each form and rate."""
    ratios = {}
    print("rate  Keras [ms]  taps [ms]  ratio")
    for rate in RATES:
        forms = [timed_step(layer_class, rate) for layer_class in (keras.layers.Conv2D, AtrousConv2D)]
        rounds = [[form() for form in forms] for _ in range(ROUNDS)]
        plain, taps = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratios[rate] = plain / taps
        print(f"{rate:4}  {1000 * plain:10.0f}  {1000 * taps:9.0f}  {ratios[rate]:5.2f}")
    print(json.dumps({"bench": "dilated_convolution", "keras_over_taps": ratios}))


if __name__ == "__main__":
    main()
