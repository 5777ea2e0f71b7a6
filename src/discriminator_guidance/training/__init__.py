"""Training of the denoiser, the extractor, the FID network and the discriminators."""
