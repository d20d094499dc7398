"""`python -m scdnet`: the command line. Written by hand, like `__init__.py`; all else is exported from the notebooks."""
import sys

from scdnet.app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
