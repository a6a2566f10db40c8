"""Run the command `glam` as `python -m glam_env.cli`."""

import sys

from glam_env.cli.main import main

sys.exit(main())
