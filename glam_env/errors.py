"""The one error that users meet: a line that names the cause and the cure."""


class GlamError(ValueError):
    """A mistake the user can mend; the message is one line: what was wrong, what would be right.

    The command line prints it without a traceback and leaves with exit code 2.
    """


class GlamAttributeError(GlamError, AttributeError):
    """An attribute that is not there; an AttributeError too, as ``hasattr`` and its like expect."""
