"""The devices and processes that train together; precision, seeds and determinism."""
