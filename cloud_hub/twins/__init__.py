"""Device twins in the database: documents, owners of desired leaves, history."""
