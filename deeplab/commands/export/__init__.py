"""Models for other programs: `python -m deeplab.export`."""
