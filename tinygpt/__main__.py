"""python -m tinygpt is the command tinygpt."""

import sys
from tinygpt.cli import main

sys.exit(main())
