"""`python -m services.endpoint`."""

import sys

from services.endpoint.main import main

sys.exit(main())
