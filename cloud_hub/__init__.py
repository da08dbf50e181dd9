"""The hub: twins, ingest, thresholds, experts, incidents, actions and scaling, behind one REST API."""
