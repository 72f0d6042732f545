"""Run the command line as ``python -m imagebuilder``."""

import sys

from imagebuilder.cli import main

sys.exit(main())
