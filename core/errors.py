"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in input, configuration or environment.

    Its message is one sentence: what is wrong, where, and what to do. The command line prints it and exits 2.
    """
