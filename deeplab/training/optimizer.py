"""The optimizers, with weight decay, loss scaling and moving averages of the weights."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf

from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings

logger = logging.getLogger("deeplab")


class SGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with momentum whose update of a variable is one kernel instead of six."""

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Changes the slot to momentum * slot - learning_rate * gradient, and adds it to the variable."""
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=learning_rate,
            grad=gradient,
            momentum=self.momentum,
        )


def make_optimizer(
    settings: OptimizerSettings,
    schedule: Schedule,
    variables: list[keras.Variable],
    loss_scaling: bool,
    of_backbone: Sequence[keras.Variable] = (),
) -> keras.optimizers.Optimizer:
    """SGD with momentum, Adam or AdamW, built for `variables`; with dynamic loss scaling for float16.

    AdamW decays only kernels (decoupled); for the other optimizers the step adds L2 to the loss. With `ema_momentum`
    the optimizer keeps a moving average of the variables (see `averaged_weights`). `of_backbone` are those of the
    variables that `backbone_learning_rate_factor` applies to.
    """
    average = {"use_ema": True, "ema_momentum": settings.ema_momentum} if settings.ema_momentum else {}
    slow = list(of_backbone) if settings.backbone_learning_rate_factor != 1 else []
    if settings.optimizer == "sgd":
        kind = SGD if settings.momentum else keras.optimizers.SGD
        optimizer = kind(schedule, momentum=settings.momentum, **average)
    elif settings.optimizer == "adam":
        optimizer = keras.optimizers.Adam(schedule, **average)
    else:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay, **average)
        optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not is_kernel(v)] + slow)
    if slow:
        _set_rate_factor(optimizer, slow, settings.backbone_learning_rate_factor)
    if loss_scaling:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)  # slots must exist before the first step and before a restore
    return optimizer


def _set_rate_factor(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable], factor: float) -> None:
    """Multiplies the learning rate of some variables by a factor, and with it AdamW's decay of them.

    Keras has one rate for all, by which its AdamW decays all that are not excluded, as these must be. A factor on
    gradients instead would do nothing with Adam, which divides by their size.
    """
    slow = {optimizer._var_key(variable) for variable in variables}
    decaying = {optimizer._var_key(variable) for variable in variables if is_kernel(variable)}
    decay = optimizer.weight_decay
    update_step = optimizer.update_step

    def update_at_its_rate(gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        key = optimizer._var_key(variable)
        rate = learning_rate * factor if key in slow else learning_rate
        if decay and key in decaying:
            variable.assign_sub(variable * (decay * rate))
        update_step(gradient, variable, rate)

    optimizer.update_step = update_at_its_rate


def skip_gradient_all_reduce(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes `apply` take gradients that are already summed over replicas; Keras would sum them once more."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    inner._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables


@contextmanager
def averaged_weights(optimizer: keras.optimizers.Optimizer, variables: list) -> Iterator[None]:
    """Puts the moving averages, if the optimizer keeps them, into the variables, and restores the variables on exit.

    Batch normalization's moving statistics are averages already and are left unchanged.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    before = [variable.numpy() for variable in variables] if inner.use_ema else []
    optimizer.finalize_variable_values(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=bool(before)):
            variable.assign(value)


def is_kernel(variable: keras.Variable) -> bool:
    """Whether weight decay applies: to convolution kernels, but not to biases or batch normalization."""
    return variable.path.endswith("kernel")
