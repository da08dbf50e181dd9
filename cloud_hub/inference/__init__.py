"""Models on the hub: language-model engines, and experts that answer escalated frames."""
