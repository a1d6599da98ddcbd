"""`python -m cli`: the same as `podlane`."""

import sys

from cli.main import main

sys.exit(main())
