"""A store over HTTP, written to as well: ``aysfs store serve``."""
