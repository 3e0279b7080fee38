"""What is wrong with what was asked for."""


class ConfigError(Exception):
    """A recipe, a runtime or an option that cannot be used; the message names it and the fix."""
