"""The entry point of ``python -m hpcbench``."""

import sys

from hpcbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
