"""REST: one module a resource. `routes` is the table of routes, `hub` authenticates, `problems` answers errors.

Routes are plain functions (FastAPI runs them on its thread pool), so the event loop never waits for a commit.
"""
