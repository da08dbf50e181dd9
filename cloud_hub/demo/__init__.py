"""`tidegate-hub demo`: a hub, a broker and a small fleet on this machine, played and checked through a user's doors."""
