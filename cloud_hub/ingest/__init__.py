"""What devices say, into the database: `router` reads it, `writer` stores it, `listener` drives both."""
