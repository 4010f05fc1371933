"""What is fetched before anybody asks, as people choose it.

A module of its own: whoever only passes the choice on needs nothing else of the cache.
"""

NONE, PROFILE, ALL = "none", "profile", "all"
MODES = (NONE, PROFILE, ALL)

PACKS = "packs"
"""Nothing is, and what is asked for comes out of packs: for commands, which people do not ask."""
