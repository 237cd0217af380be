"""`python -m deeplab.look` starts `deeplab.commands.look`."""

from deeplab.commands.look import command

if __name__ == "__main__":
    command()
