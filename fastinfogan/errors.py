"""What a user did that cannot be carried out, as opposed to a bug of ours."""


class UserError(Exception):
    """Bad arguments, configuration or data: one line on stderr, exit code 2."""

    exit_code = 2


class NonFiniteLoss(Exception):
    """A loss became NaN or infinite: exit code 3, the last good checkpoint is kept."""

    exit_code = 3
