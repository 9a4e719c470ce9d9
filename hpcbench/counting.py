"""Numbers of things in words, for people."""


def counted(number: int, noun: str) -> str:
    """Return a number of things: ``1 crystal``, ``2 crystals``.

    Parameters
    ----------
    number : int
        The number.
    noun : str
        The noun in the singular.
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def they_are(number: int, noun: str) -> str:
    """Return a number of things with its verb: ``1 row is``, ``2 rows are``.

    Parameters
    ----------
    number : int
        The number.
    noun : str
        The noun in the singular.
    """
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'}"
