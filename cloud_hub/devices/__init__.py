"""The device registry: births, tags, stream offsets, commands, removal."""
