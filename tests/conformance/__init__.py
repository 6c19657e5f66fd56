"""CPython's own asyncio tests, run against another event loop; see README.md."""
