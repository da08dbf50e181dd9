"""The operator pages: HTML made by the hub, below /ui/. `web` joins them to REST.

The pages call the functions of the REST routes, in this process, with the caller of the session: roles, scopes, audit
entries and messages are the same. Every address in a page is relative, so a proxy may serve the hub below any path.
"""
