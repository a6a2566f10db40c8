"""``python -m glam_env.cli``: the command ``glam``."""

import sys

from glam_env.cli.main import main

sys.exit(main())
