"""What agent and hub must agree on about models: manifest, bundle, and the gate with its drift detector."""
