"""The networks of the generator: layers, generator, discriminator."""
