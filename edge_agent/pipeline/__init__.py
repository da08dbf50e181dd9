"""From collectors to the outbox: sampling, limits judged on the device, commits."""
