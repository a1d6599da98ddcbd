"""`python -m services.ipam`."""

import sys

from services.ipam.main import main

sys.exit(main())
