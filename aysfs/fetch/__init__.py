"""The fetch service: from stores into the cache, one flight a blob, and ahead of who asks."""
