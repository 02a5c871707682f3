"""Expected ways for a command to end, with exit codes."""

INTERRUPTED = 130  # Ctrl-C where there is nothing to save


class Stop(Exception):
    """An end with an exit code and one line on stderr.

    `said_by_main`: another rank, mostly rank 0, prints the line, so this rank need not.
    """

    exit_code: int

    def __init__(self, message: str, said_by_main: bool = False) -> None:
        super().__init__(message)
        self.said_by_main = said_by_main


class UserError(Stop):
    """Bad arguments, configuration or data."""

    exit_code = 2


class NonFiniteLoss(Stop):
    """A loss became NaN or infinite; the last good checkpoint is kept."""

    exit_code = 3


class LostRank(Stop):
    """Another rank died, hangs or cannot be reached; the last good checkpoint is kept.

    What ended is no longer there to say why, so each of the others says that it ended.
    """

    exit_code = 1
