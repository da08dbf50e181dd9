"""`tidegate-hub demo`: runs a hub, a broker and a small fleet on this machine, and checks them through public APIs."""
