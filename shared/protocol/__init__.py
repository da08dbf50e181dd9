"""The wire protocol: messages, their encoding, topics, versions, signatures. Pure."""
