"""What a run and a study found, as one HTML page each."""
