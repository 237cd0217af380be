"""A page to try a model: `python -m deeplab.app`."""
