"""`python -m rllib_dima`: the `rllib` command."""

import sys

from rllib_dima.cli import main

sys.exit(main())
