"""The folder of a run: model, checkpoints, metrics, TensorBoard events, and what was recorded at each start."""
