"""The networks of the detector: backbones, forensic branches, one detector, several as one."""
