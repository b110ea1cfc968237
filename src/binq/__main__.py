"""``python -m binq``: the same as the ``binq`` command."""

import sys

from binq.cli import main

sys.exit(main())
