"""``python -m qgemm`` is the ``qgemm`` command."""

import sys

from .cli import main

sys.exit(main())
