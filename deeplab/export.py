"""`python -m deeplab.export` starts `deeplab.commands.export`."""

from deeplab.commands.export.program import command

if __name__ == "__main__":
    command()
