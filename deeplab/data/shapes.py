"""`python -m deeplab.data.shapes` starts `deeplab.data.source.shapes`."""

from deeplab.data.source.shapes import command

if __name__ == "__main__":
    command()
