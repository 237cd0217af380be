"""DeepLab v3 on MobileNetV2 as tensorflow/models computes it, for the comparison; needs TensorFlow, and no Keras.

Read from research/deeplab/model.py, core/feature_extractor.py, and research/slim/nets/mobilenet (mobilenet.py,
mobilenet_v2.py, conv_blocks.py) of tensorflow/models: TensorFlow's own "SAME" everywhere, epsilon 0.001 in the backbone
and 0.00001 in the head, rates only after the output stride is reached, `align_corners` in each resize.
"""

import zlib

import numpy as np
import tensorflow as tf

# Expansion, channels and stride of each block.
BLOCKS = [(1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1)]
BLOCKS += [(6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1)]
BLOCKS += [(6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1)]


class Network:
    """Draws each variable by its name when it is first used; `variables` then has all of them."""

    def __init__(self, num_classes, output_stride):
        self.variables = {}
        self.num_classes, self.output_stride = num_classes, output_stride

    def variable(self, name, shape):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) > 1:
            scale = np.sqrt(2.0 / np.prod(shape[:2] if "depthwise" in name else shape[:3]))
            value = rng.normal(0, scale, shape)
        elif name.endswith(("gamma", "moving_variance")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        return self.variables.setdefault(name, value.astype(np.float32))

    def convolution(self, x, scope, channels, size=1, stride=1, rate=1, epsilon=1e-3, activation=tf.identity):
        if channels is None:
            kernel = self.variable(f"{scope}/depthwise_weights", (size, size, x.shape[-1], 1))
            x = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME", dilations=[rate, rate])
        else:
            kernel = self.variable(f"{scope}/weights", (size, size, x.shape[-1], channels))
            x = tf.nn.conv2d(x, kernel, stride, "SAME")
        scale, offset, mean, variance = (
            self.variable(f"{scope}/BatchNorm/{name}", (x.shape[-1],))
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return activation((x - mean) / tf.sqrt(variance + epsilon) * scale + offset)

    def logits(self, image):
        """uint8 [height, width, 3] of sizes that are multiples of the output stride plus 1 -> the same size."""
        x = tf.cast(image[np.newaxis], tf.float32) * (2.0 / 255.0) - 1.0
        x = self.convolution(x, "MobilenetV2/Conv", 32, 3, stride=2, activation=tf.nn.relu6)
        reached, rate = 2, 1
        for number, (expansion, channels, stride) in enumerate(BLOCKS):
            scope = f"MobilenetV2/expanded_conv{f'_{number}' if number else ''}"
            inputs = x
            if expansion > 1:
                x = self.convolution(x, f"{scope}/expand", expansion * x.shape[-1], activation=tf.nn.relu6)
            if reached == self.output_stride:
                x = self.convolution(x, f"{scope}/depthwise", None, 3, rate=rate, activation=tf.nn.relu6)
                rate *= stride
            else:
                x = self.convolution(x, f"{scope}/depthwise", None, 3, stride=stride, activation=tf.nn.relu6)
                reached *= stride
            x = self.convolution(x, f"{scope}/project", channels)
            if stride == 1 and inputs.shape[-1] == channels:
                x += inputs

        size = x.shape[1:3]
        pooled = tf.reduce_mean(x, (1, 2), keepdims=True)
        relu = {"epsilon": 1e-5, "activation": tf.nn.relu}
        pooled = self.convolution(pooled, "image_pooling", 256, **relu)
        pooled = tf.compat.v1.image.resize_bilinear(pooled, size, align_corners=True)
        x = tf.concat([pooled, self.convolution(x, "aspp0", 256, **relu)], -1)
        x = self.convolution(x, "concat_projection", 256, **relu)
        kernel = self.variable("logits/semantic/weights", (1, 1, 256, self.num_classes))
        x = tf.nn.conv2d(x, kernel, 1, "SAME") + self.variable("logits/semantic/biases", (self.num_classes,))
        return tf.compat.v1.image.resize_bilinear(x, image.shape[:2], align_corners=True)[0]

    def save(self, path):
        """As TensorFlow 1 saves it, with what training adds."""
        extra = {
            "global_step": np.int64(30000),
            "logits/semantic/weights/Momentum": np.zeros((1, 1, 256, 2), np.float32),
        }
        tensors = self.variables | extra
        names = sorted(tensors)
        tf.raw_ops.SaveV2(
            prefix=str(path),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tensors[name] for name in names],
        )
