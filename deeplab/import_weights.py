"""`python -m deeplab.import_weights` starts `deeplab.commands.import_weights`."""

from deeplab.commands.import_weights import command

if __name__ == "__main__":
    command()
