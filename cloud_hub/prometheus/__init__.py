"""An existing Prometheus: its range queries are read (`client`), its remote write is received (`receiver`)."""
