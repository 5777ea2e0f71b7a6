"""The study of Discriminator Guidance: DVC stages over the library, and the command `dguide`."""
