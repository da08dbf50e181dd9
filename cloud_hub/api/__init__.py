"""REST: one file a resource. `auth` knows who asks, `problems` answers errors as RFC 9457, `hub` holds their parts.

Routes are plain functions (FastAPI runs them on its thread pool), so the event loop never waits for a commit.
"""
