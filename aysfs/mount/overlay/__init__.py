"""The overlay engine: the kernel serves names, attributes and bytes, we bring what is missing."""
