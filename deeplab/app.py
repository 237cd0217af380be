"""`python -m deeplab.app` starts `deeplab.commands.app`."""

from deeplab.commands.app.program import command

if __name__ == "__main__":
    command()
