"""Numbers of bytes as people read them. Pure."""


def size_text(size: float) -> str:
    """Bytes for people: ``13.4 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
