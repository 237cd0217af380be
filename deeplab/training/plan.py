"""How long to train, and what is due after which step."""

import math
from dataclasses import dataclass

from deeplab.errors import UsageError
from deeplab.settings import setting

PAPER_TRAIN_STEPS = 30_000
"""arXiv 1706.05587, section 4.1."""


@dataclass(frozen=True)
class Plan:
    """Length of training, logging, evaluation and checkpoints.

    A patience counts evaluations without a better mIoU.

    Raises:
        UsageError: both `train_steps` and `epochs` are set, or `profile_steps` is not a first and a last step.
    """

    num_examples: int = 0
    global_batch_size: int = setting(16, "Images per update, over all replicas.", lower=1, upper=2**20)
    train_steps: int = setting(0, "Number of updates; 0: set by --epochs, else 30000 (the paper's).", lower=0)
    epochs: float = setting(0.0, "Passes over the training split, instead of --train_steps; 0: not set.", lower=0.0)
    eval_every_epochs: float = setting(
        5.0, "Epochs between evaluations; 0: only at the end.", lower=0.0, hyperparameter=False
    )
    plateau_patience: int = setting(
        0, "Evaluations without a better mIoU before the learning rate is lowered; 0: never.", lower=0
    )
    plateau_factor: float = setting(
        0.5, "Factor by which a plateau multiplies the learning rate.", lower=0.0, upper=1.0
    )
    early_stopping_patience: int = setting(
        0, "Stop after this many evaluations without a better mIoU; 0: never.", lower=0
    )
    checkpoint_steps: int = setting(
        1000, "Steps between checkpoints; each evaluation also saves one.", lower=1, hyperparameter=False
    )
    checkpoint_minutes: float = setting(
        10.0, "Also save after this many minutes without a checkpoint; 0: never.", lower=0.0, hyperparameter=False
    )
    log_every_steps: int = setting(20, "Steps between log lines and TensorBoard points.", lower=1, hyperparameter=False)
    profile_steps: tuple[int, ...] | None = setting(
        None,
        "First and last step to trace with TensorFlow's profiler, such as 100,110; a few are enough.",
        lower=1,
        hyperparameter=False,
    )
    steps_per_call: int = setting(
        1, "Steps per compiled call; 10 or more on fast GPUs.", lower=1, upper=10_000, hyperparameter=False
    )

    def __post_init__(self) -> None:
        if self.train_steps and self.epochs:
            raise UsageError("--train_steps and --epochs: give one of them (0 unsets the value of a --flagfile)")
        if self.profile_steps and (len(self.profile_steps) != 2 or self.profile_steps[0] > self.profile_steps[1]):
            text = ",".join(map(str, self.profile_steps))
            raise UsageError(f"--profile_steps={text}: a first and a last step are needed, as in 100,110")

    def check_validation(self, has_split: bool) -> None:
        """Raises UsageError for a patience without a validation split, whose scores it would wait for."""
        for name in ("early_stopping_patience", "plateau_patience"):
            if getattr(self, name) and not has_split:
                raise UsageError(f"--{name}={getattr(self, name)}: needs a validation split, and --val_split is empty")

    @property
    def steps_per_epoch(self) -> float:
        """Need not be a whole number: batches cross the ends of epochs."""
        return self.num_examples / self.global_batch_size

    @property
    def total_steps(self) -> int:
        """Number of steps in the run."""
        if self.epochs:
            return max(math.ceil(self.epochs * self.steps_per_epoch), 1)
        return self.train_steps or PAPER_TRAIN_STEPS

    def evaluation_due(self, step: int) -> bool:
        """Whether to evaluate after this step: the first step after each `eval_every_epochs`, and the last step."""
        if step == self.total_steps:
            return True
        if not self.eval_every_epochs:
            return False
        interval = self.steps_per_epoch * self.eval_every_epochs
        return math.floor(step / interval) > math.floor((step - 1) / interval)

    def checkpoint_due(self, step: int) -> bool:
        """Whether to save after this step, regardless of the time."""
        return step % self.checkpoint_steps == 0 or self.evaluation_due(step)

    def anything_due(self, step: int) -> bool:
        """Whether the loop has something to do after this step, so that a compiled call must not run past it."""
        first, last = self.profile_steps or (0, 0)
        return step % self.log_every_steps == 0 or self.checkpoint_due(step) or step in (first - 1, last)

    def steps_to_next_due(self, step: int) -> int:
        """How many steps, at most `steps_per_call`, may run in one compiled call after this step."""
        count = 1
        while count < self.steps_per_call and not self.anything_due(step + count):
            count += 1
        return count
