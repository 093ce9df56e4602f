"""`python -m pipeline` is the command `parcelwise`."""

from pipeline.command import command

if __name__ == "__main__":
    command()
