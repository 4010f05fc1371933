"""As ``open``, for whoever writes to stores or looks after them."""

from functools import partial

from aysfs.store import open as reading
from aysfs.store.http_served import ServedStore

open_stores = partial(reading.open_stores, http=ServedStore)
open_store = partial(reading.open_store, http=ServedStore)
