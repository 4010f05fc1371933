"""AYS FS: services as lists of content-addressed files, mounted and fetched on first read."""

__version__ = "0.1.0"
