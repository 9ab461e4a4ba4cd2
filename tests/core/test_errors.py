"""Errors are one printable line, whatever they quote."""

from __future__ import annotations

from core.errors import UserError, one_line


def test_control_characters_are_escaped_and_long_text_keeps_its_ends() -> None:
    error = str(UserError(f"no file {'x' * 10**6}\n\x1b[31m\u202e: give another one"))
    assert len(error) < 600
    assert error.isprintable()
    assert error.startswith("no file xxx")
    assert error.endswith("\\n\\x1b[31m\\u202e: give another one")


def test_plain_text_stays_as_it_is() -> None:
    assert one_line("größer als 4 GB: a smaller one ✓") == "größer als 4 GB: a smaller one ✓"
