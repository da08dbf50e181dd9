"""Background work of the hub: workers in their threads, items that fail alone, and what is known of both."""
