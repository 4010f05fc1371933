"""``aysfs cache``: look after the cache of this host."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from aysfs.cache import eviction, recovery
from aysfs.cache.blobs import Cache
from aysfs.cache.images import ImageCache
from aysfs.cli.config import Settings, parse_size, settings_options
from aysfs.cli.progress import progress
from aysfs.cli.render import note, show_json
from aysfs.errors import Corrupt
from aysfs.sizes import size_text


@click.group("cache")
def cache_command() -> None:
    """Look after the cache of this host."""


@contextmanager
def _open(settings: Settings) -> Iterator[Cache]:
    cache = Cache(settings.cache, settings.limits, report=lambda line: note(f"aysfs: {line}"))
    try:
        yield cache
    finally:
        cache.close()


@cache_command.command("stats")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@settings_options
def stats_command(settings: Settings, as_json: bool) -> None:
    """How much is cached, and how much may be."""
    with _open(settings) as cache:
        found, parts = list(cache.scan()), list(cache.scan_partial())
        images, image_bytes = ImageCache(cache.root).stored()
        quarantine = cache.root / "quarantine"
        stats = {
            "cache": str(cache.root),
            "blobs": len(found),
            "bytes": sum(stored.size for stored in found),
            "partial": len(parts),
            "partial_bytes": sum(stored.size for stored in parts),
            "images": images,
            "image_bytes": image_bytes,
            "used": cache.usage.used,
            "bound": cache.usage.limits.size,
            "disk_free": cache.usage.disk_free(),
            "quarantined": len(list(quarantine.iterdir())) if quarantine.is_dir() else 0,
        }
    if as_json:
        show_json(stats)
        return
    click.echo(
        f"{stats['cache']}: {stats['blobs']} blobs, {size_text(cache.usage.limits.size)} bound"
    )
    click.echo(
        f"  {size_text(sum(stored.size for stored in found))} of content,"
        f" {size_text(sum(stored.size for stored in parts))} of parts of {len(parts)} large blobs,"
        f" {stats['quarantined']} quarantined;"
        f" {images} tree images, {size_text(image_bytes)}"
    )


@cache_command.command("verify")
@settings_options
def verify_command(settings: Settings) -> None:
    """Hash every cached blob; what is wrong is quarantined and fetched again when needed."""
    with _open(settings) as cache, progress("verify") as meter:
        checked, wrong = recovery.scrub(cache, meter)
    click.echo(f"{checked} blobs, {wrong} corrupt")
    if wrong:
        raise Corrupt(f"{wrong} corrupt blobs were quarantined in {settings.cache}/quarantine")


@cache_command.command("gc")
@click.option("--size", metavar="SIZE", help="Evict until this much is left; else the bound.")
@settings_options
def gc_command(settings: Settings, size: str | None) -> None:
    """Evict the oldest blobs that nobody uses until the cache is within its bound."""
    limit = settings.cache_size if size is None else parse_size(size, "`--size`")
    with _open(settings) as cache:
        done = eviction.shrink(cache, limit)
    _report(done)


@cache_command.command("clear")
@settings_options
def clear_command(settings: Settings) -> None:
    """Evict everything that nobody uses, and forget which lists were compiled."""
    with _open(settings) as cache:
        done = eviction.shrink(cache, 0)
        ImageCache(cache.root).clear()
    _report(done)


def _report(done: eviction.Evicted) -> None:
    kept = f"; {done.in_use} in use were kept" if done.in_use else ""
    click.echo(f"{done.blobs} blobs evicted, {size_text(done.size)} freed{kept}")
