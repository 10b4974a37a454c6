"""``python -m cis``: the command ``cis``."""

import sys

from cis.cli.main import main

sys.exit(main())
