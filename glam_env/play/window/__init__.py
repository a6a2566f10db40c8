"""The window of ``glam play``, on pygame (extra ``human``)."""

import os

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # a greeting on standard output
