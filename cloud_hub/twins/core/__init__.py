"""Who owns which leaf of desired state. No I/O."""
