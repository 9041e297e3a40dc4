"""The shadow worker: runs one shadow version on mirrored requests and compares its answers with the primary's."""
