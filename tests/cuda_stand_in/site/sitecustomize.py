"""Installs the stand-in in every process whose PYTHONPATH has this folder first."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

import cuda_stand_in

cuda_stand_in.install()
