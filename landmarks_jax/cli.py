"""How the entry points start and fail: one line for the user, no trace."""

import sys
from collections.abc import Callable, Sequence

from absl import app, logging

from landmarks_jax.errors import UserError


def run(main: Callable[[], int | None]) -> None:
    """Runs an entry point's `main` after absl has read the flags.

    A `UserError` becomes one line on standard error and exit code 2.
    """

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unknown argument {argv[1]!r}; every argument is a --flag")
        logging.set_verbosity(logging.INFO)
        logging.use_absl_handler()
        try:
            code = main()
        except UserError as error:
            sys.exit(_line(error))
        sys.exit(code or 0)

    app.run(guarded)


def _line(error: UserError) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return 2
