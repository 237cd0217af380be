"""`python -m deeplab.data.sbd` starts `deeplab.commands.sbd`."""

from deeplab.commands.sbd import command

if __name__ == "__main__":
    command()
