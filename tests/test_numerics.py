"""--deterministic: the same bits, whatever order the threads come in. --precision: what cuDNN is asked for."""

import ctypes
import os
import subprocess
import sys

import pytest
from conftest import skip_without_kernels

from deeplab.distribute import numerics
from deeplab.distribute.numerics import set_precision
from deeplab.distribute.settings import PrecisionSettings

SUM_OF_THREE = """
import tensorflow as tf

from deeplab.distribute.numerics import SeedSettings, set_seed

set_seed(SeedSettings(deterministic=True))


@tf.function
def add(small, large):
    # Makes Grappler believe that the device's memory is full; never written to, so that it takes none.
    room = tf.raw_ops.Empty(shape=[2**29], dtype=tf.uint8)
    slow = small
    for _ in range(200):
        slow = tf.matmul(slow, small)  # of the identity matrix
    total = tf.raw_ops.AddN(inputs=[slow, tf.abs(large), tf.negative(large)])
    with tf.control_dependencies([total]):
        return total, room[:1]


total, _ = add(tf.eye(256), tf.fill([256, 256], 1e9))
print(float(tf.reduce_max(total)))
"""


def test_deterministic_sums_keep_their_order_when_the_first_summand_is_the_last_to_be_ready():
    done = subprocess.run([sys.executable, "-c", SUM_OF_THREE], capture_output=True, text=True, check=True)
    assert float(done.stdout) == 0.0  # (1 + 1e9) - 1e9 in float32; it would be 1 if the first came last


@pytest.mark.parametrize(
    ("precision", "before", "after"),
    [("float32", None, None), ("bfloat16", None, "1"), ("float16", None, "1"), ("bfloat16", "0", "0")],
)
def test_half_precisions_take_the_batch_normalization_without_transposes(monkeypatch, precision, before, after):
    skip_without_kernels(precision)
    monkeypatch.setenv(numerics.PERSISTENT_BATCH_NORM, "")  # so that it is reset afterwards
    del os.environ[numerics.PERSISTENT_BATCH_NORM]
    if before is not None:
        os.environ[numerics.PERSISTENT_BATCH_NORM] = before
    monkeypatch.setattr("keras.config.set_dtype_policy", lambda policy: None)
    set_precision(PrecisionSettings(precision))
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    value = getenv(numerics.PERSISTENT_BATCH_NORM.encode())  # as TensorFlow reads it
    assert (value and value.decode()) == after
