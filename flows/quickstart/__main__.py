"""`python -m flows.quickstart .quickstart` makes the quickstart's data."""

import argparse
import logging
from pathlib import Path

from flows.quickstart import make

parser = argparse.ArgumentParser(prog="python -m flows.quickstart", description="Make the quickstart's data.")
parser.add_argument("folder", type=Path, help="folder to write into, for example .quickstart")
logging.basicConfig(level=logging.INFO, format="%(message)s")
make(parser.parse_args().folder)
