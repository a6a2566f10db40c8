"""The errors of this package: one line that names the cause and the remedy."""


class GlamError(ValueError):
    """A mistake that the user can correct.

    The message is one line: what was wrong, what would be right. The command line prints it
    without a traceback and exits with code 2.
    """


class GlamAttributeError(GlamError, AttributeError):
    """A missing attribute; also an AttributeError, which ``hasattr`` expects."""


class GlamTypeError(GlamError, TypeError):
    """An unknown keyword argument; also a TypeError, which other libraries catch."""


class GlamNumberError(GlamError, FloatingPointError):
    """Numbers that left the range of their format; also a FloatingPointError."""
