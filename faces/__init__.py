"""Face data: media, detection, manifest, splits, loading and the embedded faces."""
