"""The one error a user of harvib can cause."""


class InputError(ValueError):
    """Wrong use or bad input; the text says in one line what is wrong, where, and what to do.

    The command line prints it and ends with exit code 2.
    """
