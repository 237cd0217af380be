"""`python -m deeplab.predict` starts `deeplab.commands.predict`."""

from deeplab.commands.predict.program import command

if __name__ == "__main__":
    command()
