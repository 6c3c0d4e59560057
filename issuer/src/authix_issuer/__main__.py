"""``python -m authix_issuer``."""

import sys

from authix_issuer.cli import main

sys.exit(main())
