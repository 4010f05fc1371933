"""What the server counts, for Prometheus and for its access log.

Serves every handler. Owns a registry of its own: two servers in one process do not mix.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters since the server began."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "aysfs_requests",
            "Requests answered",
            ["kind", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "aysfs_request_seconds",
            "Time to the end of an answer",
            ["kind"],
            buckets=(0.001, 0.01, 0.1, 1, 10, 100),
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "aysfs_requests_in_flight", "Requests under way", registry=self._registry
        )
        self.sent = Counter("aysfs_sent_bytes", "Bytes of bodies sent", registry=self._registry)
        self.received = Counter(
            "aysfs_received_bytes", "Bytes of bodies received", registry=self._registry
        )
        self.blobs = Counter(
            "aysfs_blobs", "Blobs kept and deleted", ["what"], registry=self._registry
        )
        self.upstream = Counter(
            "aysfs_upstream", "Misses asked upstream", ["result"], registry=self._registry
        )

    def text(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        return generate_latest(self._registry)
