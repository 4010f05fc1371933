"""Where blobs and lists live: one small protocol (`protocol`), and everything that speaks it."""
