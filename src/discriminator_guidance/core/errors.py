"""Errors a user can cause and cure; each one is shown as a single line with exit code 2."""


class UserError(ValueError):
    """Something cannot be done as asked: what would have been right, what was met instead, what to do about it."""

    def __init__(self, expected: str, got: str, remedy: str) -> None:
        self.expected, self.got, self.remedy = map(_one_line, (expected, got, remedy))
        super().__init__(f"expected {self.expected}; got {self.got}; {self.remedy}")


def _one_line(text: str) -> str:
    # Names in third-party files may hold line breaks, or codes that steer a terminal.
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)


class ConfigError(UserError):
    """A value in a configuration file is missing, unknown, of the wrong type or out of range."""


class SettingError(ConfigError):
    """A setting with a value that it cannot have, or (with no `key`) several that contradict each other."""

    def __init__(self, key: str, got: str, remedy: str) -> None:
        self.key = key
        super().__init__(f"a valid {key}" if key else "settings that fit together", got, remedy)


class InputError(UserError):
    """A file that a stage needs is missing, damaged or of the wrong shape."""


class DivergenceError(UserError):
    """A loss, gradient or image stopped being finite."""
