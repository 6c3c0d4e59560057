"""``python -m authix_sidecar``."""

import sys

from authix_sidecar.cli import main

sys.exit(main())
