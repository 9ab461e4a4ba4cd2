"""The one exception that means "the user can mend this"."""

from __future__ import annotations

from core.secrets import redact

_LONGEST = 500


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Text of any origin as one printable line: control characters are escaped, the middle of long text is cut.

    File names, tags and library messages may hold newlines, terminal escapes, passwords or megabytes.
    """
    if len(text) > 20 * longest:  # what lies deep in the middle is cut below in any case
        text = f"{text[: 10 * longest]} {text[-10 * longest :]}"
    text = redact(text)
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-(longest - longest // 2) :]}"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class UserError(ValueError):
    """A mistake in input, configuration or environment.

    Its message is one sentence: what is wrong, where, and what to do. The command line prints it and exits 2. Whatever
    the sentence quotes, it is one printable line of bounded length, without passwords.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))
