"""The version of hpcbench. Imports nothing of it, so that every module may import this one."""

from pathlib import Path

__version__ = "0.1.0"

PACKAGE = Path(__file__).parent
