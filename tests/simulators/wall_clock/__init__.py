"""Where the jumping wall clock lies: a folder for the front of a program's `PYTHONPATH`."""

from pathlib import Path

FOLDER = str(Path(__file__).parent)
