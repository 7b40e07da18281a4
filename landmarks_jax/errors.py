"""Errors a user can act on: the message says what is wrong, where, and what to do.

The entry points print the message alone, on one line, and exit with code 2.
"""


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line."""


class ConfigError(UserError):
    """A config field has a value that cannot work."""


class DataError(UserError):
    """A file or folder of data is missing, malformed or damaged."""


class WeightsError(UserError):
    """A file of pretrained weights is missing, damaged or of another shape."""


class WorkdirError(UserError):
    """A run's folder does not fit the run, or its checkpoint cannot be read."""
