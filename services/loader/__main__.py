"""`python -m services.loader`."""

import sys

from services.common.lean import shed

shed()

from services.loader.main import main  # noqa: E402 # after shed(), or it would come too late

if __name__ == "__main__":
    sys.exit(main())
