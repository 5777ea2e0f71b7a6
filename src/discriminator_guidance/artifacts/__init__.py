"""Files in, arrays and state dicts out: images, weights, atomic writes, resumable work."""
