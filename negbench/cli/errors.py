"""Mistakes of the user as one sentence and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from negbench.runtime.errors import UserError

UsageError: Any = typer.BadParameter.__base__  # typer gives it no name of its own


@contextmanager
def mistakes_of_the_user() -> Iterator[None]:
    """Turn an exception into a message and the exit code of `ending_of`: UserError is the user's mistake."""
    try:
        yield
    except (typer.Exit, UsageError):
        raise
    except Exception as error:
        from negbench.runtime.failure import ending_of

        ending = ending_of(error)
        if _is_first():  # these mistakes are the same on all ranks
            ending.show()
        raise typer.Exit(ending.code) from None


def _is_first() -> bool:
    from negbench.runtime.place import find_place

    try:
        return find_place().rank == 0
    except UserError:  # the mistake is in the variables themselves
        return True
