"""What all programs have in common: start and end, signals, a quiet stderr, and the reference of their flags."""
