"""Lexer, parser and tree of the query language. No I/O."""
