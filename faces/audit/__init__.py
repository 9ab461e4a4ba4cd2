"""Label leakage: cues outside the face, shortcut probes, near-duplicates, normalisation."""
