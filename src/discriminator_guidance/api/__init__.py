"""Guide your own model: what `discriminator_guidance` exports, made of torch, numpy and safetensors alone."""
