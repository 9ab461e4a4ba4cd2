"""What gives the label away: cues outside the face, probes, near-duplicates, normalisation."""
