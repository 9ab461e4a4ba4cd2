"""What everything stands on: errors, files, devices, signals, seeds, configuration, manifests and splits."""
