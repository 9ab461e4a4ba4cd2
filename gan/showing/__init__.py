"""Showing a generator: what it makes, in pictures, films and spectra."""
