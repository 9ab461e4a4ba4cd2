"""The generator: networks, losses, training and sampling."""
