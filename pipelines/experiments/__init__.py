"""Arms by seeds: trained, scored on sealed rows, compared, concluded."""
