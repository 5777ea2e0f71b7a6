"""Score networks, encoder classifiers and discriminator heads."""
