"""The small run that the tests of the programs share: its flags, and readers of what a run leaves."""

import json
import re

import tensorflow as tf

STEPS = 9
COLORED = 2
COLOR = (10, 20, 30)
"""Index of a class, and its color in pictures, which the run's class table gives."""
TRAIN_FLAGS = (
    "--backbone=tiny",
    "--backbone_weights=none",
    "--crop_size=65",
    "--global_batch_size=4",
    f"--train_steps={STEPS}",
    "--learning_rate=0.05",
    "--batch_norm_momentum=0.8",
    "--loss=cross_entropy_dice",
    "--log_every_steps=1",
    "--eval_every_epochs=1",
    "--num_gpus=0",
    "--num_cpu_replicas=2",
    "--deterministic",
)


def records_of(model_dir):
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def variables_of(model_dir, name):
    """Key -> value of all variables of a checkpoint."""
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / name))
    return {
        key: reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def assert_one_line(done, pattern):
    """The reason is the last line, and nothing looks like a crash of the program."""
    assert "Traceback" not in done.stderr
    assert re.search(pattern, done.stderr.splitlines()[-1]), done.stderr[-1000:]
