"""What a user did that cannot be carried out, as opposed to a bug of ours."""


class UserError(Exception):
    """Bad arguments, configuration or data: one line on stderr, exit code 2.

    `said_by_main`: rank 0 prints the line, so this rank need not.
    """

    exit_code = 2

    def __init__(self, message: str, said_by_main: bool = False) -> None:
        super().__init__(message)
        self.said_by_main = said_by_main


class NonFiniteLoss(Exception):
    """A loss became NaN or infinite: exit code 3, the last good checkpoint is kept."""

    exit_code = 3
    said_by_main = False
