"""What the kernel is asked for directly: its mount table and its mount API."""
