"""``python -m pvit_ext.cli``."""

import sys

from pvit_ext.cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
