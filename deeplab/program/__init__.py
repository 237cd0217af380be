"""Shared by all programs: start and end, signals, a quiet stderr, --help."""
