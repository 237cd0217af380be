"""Losses, metrics, schedules, the compiled step, checkpoints and summaries."""
