"""Errors a user can cause and cure; each one is shown as a single line with exit code 2."""


class UserError(ValueError):
    """Something cannot be done as asked: a clause that says what is wrong, and another that says what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = _one_line(problem), _one_line(remedy)
        super().__init__(f"{self.problem}; {self.remedy}")


def _one_line(text: str) -> str:
    # Names in third-party files may hold line breaks, or codes that steer a terminal.
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)


class ConfigError(UserError):
    """A setting is missing, unknown or out of range, or contradicts another; `problem` begins with its key."""


class InputError(UserError):
    """A file that a stage needs is missing, damaged or of the wrong shape."""


class DivergenceError(UserError):
    """A loss, gradient or image stopped being finite."""
