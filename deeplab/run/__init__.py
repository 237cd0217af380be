"""The folder of a run: model, checkpoints, metrics, TensorBoard events."""
