"""Masks and overlays of a folder of pictures: `python -m deeplab.predict`."""
