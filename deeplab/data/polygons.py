"""The old name of `deeplab.data.convert`, with the same flags. To be deleted in 0.4 (CHANGELOG.md)."""

from deeplab.commands.convert import command

if __name__ == "__main__":
    command()
