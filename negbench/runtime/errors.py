"""The exception for mistakes that a user can correct."""


class UserError(ValueError):
    """A mistake of the user: one sentence that says what is wrong, where, and what would be right. Exit code 2.

    Any other exception is a defect: a traceback, and exit code 1.
    """


class InUseError(UserError):
    """Another process has the run, so that this one neither changes it nor records an end of it."""
