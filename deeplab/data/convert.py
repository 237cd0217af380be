"""`python -m deeplab.data.convert` starts `deeplab.commands.convert`."""

from deeplab.commands.convert import command

if __name__ == "__main__":
    command()
