"""Ingest of device messages: `listener` receives them, `core.router` parses them, `writer` stores them."""
