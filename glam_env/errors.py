"""The errors of this package: one line that names the cause and the remedy."""

MESSAGE_LENGTH = 1000
"""Maximum number of characters of an error's message."""


def printable(text: object, most: int = MESSAGE_LENGTH) -> str:
    r"""Return a text as one line of bounded length, without control characters.

    Such a line is safe to print. Names and values that come from files may hold anything, such as
    the escape sequences of a terminal.

    Args:
        text: The text, or an object whose ``str`` is taken.
        most: Length above which the middle is left out.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    >>> printable("abcdefghij", 7)
    'abc…hij'
    """
    whole = _shortened(str(text), most)
    if whole.isprintable():
        return whole
    escaped = "".join(each if each.isprintable() else repr(each)[1:-1] for each in whole)
    return _shortened(escaped, most)


def line_of(error: BaseException, number: int = 0) -> str:
    """Return a line of an error's message, or its ``repr`` if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[number].strip() if lines else repr(error)


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    tail = most // 2
    return f"{text[: most - tail - 1]}…{text[len(text) - tail :]}"


class GlamError(ValueError):
    """A mistake that the user can correct.

    The message is one line of bounded length: what was wrong, what would be right. The command line
    prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))


class GlamAttributeError(GlamError, AttributeError):
    """A missing attribute; also an AttributeError, which ``hasattr`` expects."""


class GlamTypeError(GlamError, TypeError):
    """An unknown keyword argument; also a TypeError, which other libraries catch."""


class GlamNumberError(GlamError, FloatingPointError):
    """Numbers out of range or not finite; also a FloatingPointError."""
