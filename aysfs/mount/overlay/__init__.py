"""The overlay engine: the kernel serves names, attributes and bytes, we bring in what is missing."""
