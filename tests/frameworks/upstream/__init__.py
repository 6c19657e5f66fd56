"""The pinned test suites of other projects, run on asyncio and on oxloop; see README.md."""
