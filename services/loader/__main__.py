"""`python -m services.loader`."""

import sys

from services.loader.main import main

sys.exit(main())
