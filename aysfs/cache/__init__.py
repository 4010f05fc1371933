"""The cache: one verified blob on this host's disk, whoever asked, however often."""
