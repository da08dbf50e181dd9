"""The database: sessions, engine (SQLite or PostgreSQL), locks, schema and migrations, tables, row scopes."""
