"""The detector: backbones, training, scoring, calibration and evaluation."""
