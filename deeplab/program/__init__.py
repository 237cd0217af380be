"""Shared by all programs: start and end, signals, a quiet stderr, and the reference of their flags."""
