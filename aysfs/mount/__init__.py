"""Mounts: the engine that serves one, its daemon, and their life from mount to unmount."""
